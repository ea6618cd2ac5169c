//! The inbound thread: receives datagrams from the underlay, writes packets to the device.
//!
//! Path of a packet: underlay → **`io::inbound`** (→ `core::inbound`) → TUN.
//! It writes to the queue that its worker's outbound thread reads: the kernel steers a flow to
//! the queue that wrote it last.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Fib;
use tunneld_core::inbound::{Inbound, MAX_DATAGRAMS};

use crate::descriptor::Descriptors;
use crate::mmsg::Receiver;
use crate::publish::FibReader;
use crate::pulse::{Mode, Pulse};
use crate::{clock, raw_icmp, tun};

/// What the thread works with.
pub(crate) struct InboundThread {
    pub(crate) descriptors: Descriptors,
    pub(crate) inbound: Inbound,
    pub(crate) fibs: FibReader,
    pub(crate) pulse: Arc<Pulse>,
}

impl InboundThread {
    /// Runs until it is told to stop, or until the socket fails for good.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let Self { descriptors, mut inbound, mut fibs, pulse } = self;
        let Descriptors { tun, underlay, icmp } = descriptors;
        let mut receiver = Receiver::new();
        while let Some(ready) = pulse.wait_readable(&underlay)? {
            if ready.contains(PollFlags::ERR) {
                discard_errors(&underlay);
            }
            let mut more = true;
            while more && pulse.mode() == Mode::Run {
                pulse.beat();
                let fib = fibs.current();
                let count = match receiver.receive(&underlay) {
                    Ok(count) => count,
                    Err(errno) if is_passing(errno) => break,
                    Err(errno) => return Err(errno),
                };
                more = count == MAX_DATAGRAMS;
                take(&mut receiver, count, &mut inbound, fib);
                deliver(&receiver, &tun, &inbound, fib, &pulse)?;
                raw_icmp::send(&icmp, inbound.replies(), inbound.counters());
                inbound.clear();
            }
        }
        Ok(())
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
            | Errno::MSGSIZE
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::ACCESS
            | Errno::PERM
    )
}

/// Empties the socket's error queue, which would keep it ready for ever.
fn discard_errors(underlay: &OwnedFd) {
    let mut buffer = [0; 64];
    while recv(underlay, &mut buffer, RecvFlags::ERRQUEUE | RecvFlags::DONTWAIT).is_ok() {}
}

fn take(receiver: &mut Receiver, count: usize, inbound: &mut Inbound, fib: &Fib) {
    inbound.counters().batches.add(1);
    let now_ns = clock::now_ns();
    for slot in 0..count {
        let datagram = receiver.received(slot);
        if datagram.truncated {
            inbound.truncated_by_kernel();
        } else {
            inbound.handle(fib, slot, datagram.source, datagram.payload, now_ns);
        }
    }
}

fn deliver(
    receiver: &Receiver,
    device: &OwnedFd,
    inbound: &Inbound,
    fib: &Fib,
    pulse: &Pulse,
) -> Result<(), Errno> {
    let now_ns = clock::now_ns();
    let deliveries = inbound.deliveries();
    let mut done = 0;
    while let Some(delivery) = deliveries.get(done) {
        match tun::write(device, delivery.vnet, receiver.bytes(delivery.slot, delivery.len)) {
            Ok(()) => inbound.delivered(fib, done, now_ns),
            Err(Errno::AGAIN) => {
                if pulse.wait_writable(device)? {
                    continue;
                }
                deliveries[done..].iter().for_each(|_| inbound.refused(DropReason::Stopped));
                return Ok(());
            }
            Err(_) => inbound.refused(DropReason::DeviceRefused),
        }
        done += 1;
    }
    Ok(())
}
