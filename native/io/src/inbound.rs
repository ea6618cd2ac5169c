//! The inbound duty: receives datagrams from the underlay, writes packets to the device.
//!
//! Path of a packet: underlay → **`io::inbound`** (→ `core::inbound`) → TUN.
//! It writes to the queue that its worker's outbound thread reads: the kernel steers a flow to
//! the queue that wrote it last. A super-packet that the device refuses goes packet by packet: one
//! joined here as what it was joined of, a peer's own cut.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tunneld_core::batch::MAX_PACKET_LEN;
use tunneld_core::coalescing::{Delivery, Kinds};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::encapsulation::Via;
use tunneld_core::fib::Fib;
use tunneld_core::inbound::{Inbound, Outer};
use tunneld_core::segmentation::Segmentation;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};

use crate::duty::{Found, Meanwhile};
use crate::event::Event;
use crate::mmsg::Receiver;
use crate::offload::Offload;
use crate::publish::FibReader;
use crate::pulse::MAX_SOCKETS;
use crate::surroundings::Surroundings;
use crate::tun::Packet;
use crate::{clock, raw_icmp};

/// What serves one direction of a worker: from its sockets to its queue of the device.
pub(crate) struct InboundDuty<'a> {
    surroundings: Surroundings<'a>,
    sockets: Vec<BorrowedFd<'a>>,
    /// For each socket what arrives there.
    vias: Vec<Via>,
    /// For each socket whether there may be something.
    due: [bool; MAX_SOCKETS],
    receiver: Receiver,
    inbound: Inbound,
    fibs: FibReader,
}

impl<'a> InboundDuty<'a> {
    pub(crate) fn new(surroundings: Surroundings<'a>, inbound: Inbound, fibs: FibReader) -> Self {
        let underlay = &surroundings.descriptors.underlay;
        let sockets = underlay.receiving().map(OwnedFd::as_fd).collect();
        let (vias, due) = (underlay.vias().collect(), [false; MAX_SOCKETS]);
        Self { surroundings, sockets, vias, due, receiver: Receiver::new(), inbound, fibs }
    }

    /// Returns what there is something to receive from.
    pub(crate) fn sockets(&self) -> &[BorrowedFd<'a>] {
        &self.sockets
    }

    /// Takes note of what a wait said of each socket.
    pub(crate) fn note(&mut self, ready: &[PollFlags]) {
        for ((socket, due), ready) in self.sockets.iter().zip(&mut self.due).zip(ready) {
            if ready.contains(PollFlags::ERR) {
                discard_errors(*socket);
            }
            *due = !ready.is_empty();
        }
    }

    /// Takes note that there may be something in every socket.
    pub(crate) fn note_all(&mut self) {
        self.due = [true; MAX_SOCKETS];
    }

    /// Receives one batch of each socket that is due, and writes it to the device.
    pub(crate) fn pass(&mut self) -> Result<Found, Errno> {
        let Self { surroundings, sockets, vias, due, receiver, inbound, fibs } = self;
        let device = Device(*surroundings);
        let mut found = Found::Nothing;
        let arrivals = sockets.iter().zip(vias).zip(due).filter(|(_, due)| **due);
        for ((socket, via), due) in arrivals {
            surroundings.pulse.beat();
            let fib = fibs.current();
            let batch = match receiver.receive(*socket) {
                Ok(batch) => batch,
                Err(errno) if is_passing(errno) => {
                    *due = false;
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            *due = batch.full;
            if batch.full || found == Found::Nothing {
                found = if batch.full { Found::Part } else { Found::All };
            }
            inbound.set_coalescing(device.kinds());
            take(receiver, batch.count, inbound, fib, *via);
            surroundings.keying.iter().for_each(|keying| keying.take_from(inbound));
            for answer in inbound.answers().drain() {
                surroundings.events.push(Event::ProbeAnswered(answer));
            }
            device.deliver(receiver.memory(), inbound, fib)?;
            raw_icmp::send(&surroundings.descriptors.icmp, inbound.replies(), inbound.counters());
            inbound.clear();
        }
        Ok(found)
    }
}

impl Meanwhile for InboundDuty<'_> {
    fn awaited(&self) -> &[BorrowedFd<'_>] {
        &self.sockets
    }

    fn go_on(&mut self, ready: &[PollFlags]) -> Result<(), Errno> {
        self.note(ready);
        self.pass().map(drop)
    }
}

/// Returns whether an error of a receive says nothing about the socket itself: it is empty, or
/// reports what became of an earlier datagram.
const fn is_passing(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::AGAIN
            | Errno::INTR
            | Errno::NOMEM
            | Errno::NOBUFS
            | Errno::CONNREFUSED
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::MSGSIZE
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::ACCESS
            | Errno::PERM
    )
}

/// Empties the socket's error queue, which would keep it ready for ever.
fn discard_errors(underlay: BorrowedFd<'_>) {
    let mut buffer = [0; 64];
    while recv(underlay, &mut buffer, RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT).is_ok() {}
}

fn take(receiver: &mut Receiver, count: usize, inbound: &mut Inbound, fib: &Fib, via: Via) {
    inbound.counters().batches.add(1);
    let now_ns = clock::now_ns();
    for number in 0..count {
        let message = receiver.received(number);
        if message.truncated {
            inbound.truncated_by_kernel();
        } else {
            let outer = Outer { source: message.source, ecn: message.ecn };
            let (place, memory) = (message.place, receiver.memory_mut());
            inbound.handle(fib, via, outer, memory, place, message.segment_len, now_ns);
        }
    }
}

/// Where accepted packets go.
struct Device<'a>(Surroundings<'a>);

impl Device<'_> {
    fn kinds(&self) -> Kinds {
        Kinds {
            tcp: self.0.offloads.is_on(Offload::CoalesceTcp),
            udp: self.0.offloads.is_on(Offload::CoalesceUdp),
        }
    }

    /// Writes what the batch holds. A super-packet that the device refuses is written packet by
    /// packet instead.
    fn deliver(&self, memory: &[u8], inbound: &Inbound, fib: &Fib) -> Result<(), Errno> {
        let now_ns = clock::now_ns();
        let batch = inbound.deliveries();
        for (number, delivery) in batch.iter().enumerate() {
            let mut left = delivery.count;
            let mut refusal = None;
            if let Some(headers) = batch.headers(delivery, memory) {
                let payloads = batch.packets(delivery).map(|place| &memory[place][headers.len..]);
                match self.write(&Packet::joined(&headers, payloads))? {
                    Outcome::Taken => {
                        inbound.delivered(fib, delivery, delivery.count, delivery.bytes, now_ns);
                        self.0.offloads.worked(coalescing_of(delivery), self.0.events);
                        continue;
                    }
                    Outcome::Refused(errno) => refusal = Some(errno),
                    Outcome::Stop => return self.stop(inbound, number, left),
                }
            }
            let mut went = 0;
            for (place, vnet) in batch.singles(delivery) {
                match self.write_alone(&memory[place.clone()], vnet)? {
                    Outcome::Taken => {
                        inbound.delivered(fib, delivery, 1, place.len(), now_ns);
                        went += 1;
                    }
                    Outcome::Refused(_) => inbound.refused(DropReason::DeviceRefused, 1),
                    Outcome::Stop => return self.stop(inbound, number, left),
                }
                left -= 1;
            }
            // What does not go alone either says nothing about super-packets.
            match refusal {
                Some(errno) if went > 0 && may_be_about_super_packets(errno) => {
                    self.0.offloads.fall_back(coalescing_of(delivery), errno, self.0.events);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn write_alone(&self, packet: &[u8], vnet: VnetHeader) -> Result<Outcome, Errno> {
        match self.write(&Packet::single(packet, vnet))? {
            Outcome::Refused(errno)
                if vnet.gso != Gso::None && may_be_about_super_packets(errno) =>
            {
                self.write_cut(packet, &vnet, errno)
            }
            outcome => Ok(outcome),
        }
    }

    /// Writes a peer's super-packet, which the device refused with `refusal`, cut; as kernels
    /// before 6.2 want it of UDP.
    #[cold]
    fn write_cut(
        &self,
        packet: &[u8],
        vnet: &VnetHeader,
        refusal: Errno,
    ) -> Result<Outcome, Errno> {
        let Ok(cut) = Segmentation::of(vnet, packet) else { return Ok(Outcome::Refused(refusal)) };
        let mut room = [0; MAX_PACKET_LEN];
        for index in 0..cut.count() {
            let segment = &mut room[..cut.segment_len(index)];
            cut.write(packet, index, segment);
            match self.write(&Packet::single(segment, VnetHeader::default()))? {
                Outcome::Taken => {}
                outcome => return Ok(outcome),
            }
        }
        Ok(Outcome::Taken)
    }

    fn write(&self, packet: &Packet<'_>) -> Result<Outcome, Errno> {
        let queue = &self.0.descriptors.tun;
        loop {
            match packet.write(queue) {
                Ok(()) => return Ok(Outcome::Taken),
                Err(Errno::AGAIN) => {
                    if self.0.pulse.wait_writable(queue.as_fd(), &[])?.is_none() {
                        return Ok(Outcome::Stop);
                    }
                }
                Err(errno) => return Ok(Outcome::Refused(errno)),
            }
        }
    }

    /// Counts what is in hand as dropped: `left` packets of delivery `number`, and all behind it.
    #[allow(clippy::unnecessary_wraps, reason = "the last word of `deliver`")]
    fn stop(&self, inbound: &Inbound, number: usize, left: usize) -> Result<(), Errno> {
        let behind = &inbound.deliveries()[number + 1..];
        let rest = behind.iter().map(|delivery| delivery.count).sum::<usize>();
        inbound.refused(DropReason::Stopped, left + rest);
        Ok(())
    }
}

/// Returns what joined the packets of a delivery.
fn coalescing_of(delivery: &Delivery) -> Offload {
    if delivery.is_tcp() { Offload::CoalesceTcp } else { Offload::CoalesceUdp }
}

/// Returns whether an error can come from writing a super-packet rather than a packet.
const fn may_be_about_super_packets(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::IO | Errno::OPNOTSUPP | Errno::MSGSIZE)
}

/// What became of a write.
enum Outcome {
    Taken,
    Refused(Errno),
    Stop,
}

#[cfg(test)]
mod tests;
