//! The outbound duty: reads packets from the device, sends datagrams to the underlay.
//!
//! Path of a packet: TUN → **`io::outbound`** (→ `core::outbound`) → `io::transmit` → underlay.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::batch::MAX_TRAINS;
use tunneld_core::fib::Fib;
use tunneld_core::icmp_limit::BURST;
use tunneld_core::outbound::{Outbound, Refused};
use tunneld_core::path_mtu::PathMtus;
use tunneld_core::refusals::Refusals;

use crate::aside::Asides;
use crate::clock;
use crate::duty::{Found, Meanwhile};
use crate::errands::{Fate, Packet, Pending};
use crate::mmsg::Sender;
use crate::publish::FibReader;
use crate::surroundings::Surroundings;
use crate::transmit::Transmitter;
use crate::tun::TunReader;

/// Most packets of a batch whose senders are told that they are too large: no more may be at once.
const MAX_REFUSED: usize = BURST as usize;

/// What serves one direction of a worker: from its queue of the device to its sockets.
pub(crate) struct OutboundDuty<'a> {
    surroundings: Surroundings<'a>,
    reader: TunReader<'a>,
    outbound: Outbound,
    fibs: FibReader,
    sender: Sender,
    path_mtus: PathMtus,
    too_big: Vec<Refused>,
    /// For each queue of a batch.
    sockets: Vec<Option<&'a OwnedFd>>,
    asides: Asides<'a>,
    refusals: Refusals,
}

impl<'a> OutboundDuty<'a> {
    pub(crate) fn new(surroundings: Surroundings<'a>, outbound: Outbound, fibs: FibReader) -> Self {
        let descriptors = surroundings.descriptors;
        let reader = TunReader::new(&descriptors.tun);
        let sockets = descriptors.underlay.by_queue();
        Self {
            surroundings,
            reader,
            outbound,
            fibs,
            sender: Sender::new(),
            path_mtus: PathMtus::default(),
            too_big: Vec::with_capacity(MAX_REFUSED),
            sockets,
            asides: Asides::new(&descriptors.underlay),
            refusals: Refusals::default(),
        }
    }

    /// Returns what there is something to read from.
    pub(crate) fn device(&self) -> BorrowedFd<'a> {
        self.surroundings.descriptors.tun.as_fd()
    }

    /// Reads and sends one batch. While the underlay is full, `meanwhile` goes on.
    pub(crate) fn pass<'b>(
        &'b mut self,
        meanwhile: Option<&'b mut dyn Meanwhile>,
    ) -> Result<Found, Errno> {
        self.surroundings.pulse.beat();
        let fib = self.fibs.current();
        let mut transmitter = Transmitter {
            surroundings: self.surroundings,
            sender: &mut self.sender,
            sockets: &self.sockets,
            path_mtus: &mut self.path_mtus,
            too_big: &mut self.too_big,
            asides: &mut self.asides,
            refusals: &mut self.refusals,
            meanwhile,
        };
        if self.surroundings.errands.any() {
            run(self.surroundings.errands.take(), &mut self.outbound, fib, &mut transmitter)?;
        }
        let found = fill(&mut self.reader, &mut self.outbound, fib, &mut transmitter)?;
        transmitter.flush(&mut self.outbound, fib)?;
        if self.outbound.take_left() {
            self.surroundings.keying.iter().for_each(|keying| keying.pulse.nudge());
        }
        Ok(found)
    }
}

/// Sends probes, and what waited for keys.
#[cold]
fn run(
    errands: Pending,
    outbound: &mut Outbound,
    fib: &Fib,
    transmitter: &mut Transmitter<'_, '_>,
) -> Result<(), Errno> {
    let now_ns = clock::now_ns();
    for probe in errands.probes {
        outbound.probe(fib, &probe, now_ns);
    }
    for (fate, Packet { vnet, bytes }) in errands.packets {
        if !outbound.batch().has_room() || !outbound.replies().is_empty() {
            transmitter.flush(outbound, fib)?;
        }
        match fate {
            Fate::Goes => {
                outbound.again(fib, vnet, &bytes, now_ns);
                finish(outbound, fib, &bytes, now_ns, transmitter)?;
            }
            Fate::IsDropped => outbound.give_up(fib, &bytes, now_ns),
        }
    }
    transmitter.flush(outbound, fib)
}

/// Sends what a packet still has, where the batch has no more room.
fn finish(
    outbound: &mut Outbound,
    fib: &Fib,
    packet: &[u8],
    now_ns: u64,
    transmitter: &mut Transmitter<'_, '_>,
) -> Result<(), Errno> {
    while outbound.is_unfinished() {
        transmitter.flush(outbound, fib)?;
        outbound.resume(fib, packet, now_ns);
    }
    Ok(())
}

/// Reads packets until the batch is full or the device is empty.
fn fill(
    reader: &mut TunReader<'_>,
    outbound: &mut Outbound,
    fib: &Fib,
    transmitter: &mut Transmitter<'_, '_>,
) -> Result<Found, Errno> {
    let now_ns = clock::now_ns();
    for count in 0..MAX_TRAINS {
        if !outbound.batch().has_room() {
            break;
        }
        match reader.read() {
            Ok((vnet, packet)) => {
                outbound.handle(fib, vnet, packet, now_ns);
                finish(outbound, fib, packet, now_ns, transmitter)?;
            }
            Err(Errno::AGAIN) if count == 0 => return Ok(Found::Nothing),
            Err(Errno::AGAIN) => {
                outbound.counters().batches.add(1);
                return Ok(Found::All);
            }
            Err(errno) => return Err(errno),
        }
    }
    outbound.counters().batches.add(1);
    Ok(Found::Part)
}
