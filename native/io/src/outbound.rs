//! The outbound thread: reads packets from the device, sends datagrams to the underlay.
//!
//! Path of a packet: TUN → **`io::outbound`** (→ `core::outbound`) → underlay.
//! Where the underlay is full the thread waits and the device's queue fills: nothing is lost.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use tunneld_core::batch::MAX_DATAGRAMS;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Fib;
use tunneld_core::outbound::Outbound;

use crate::descriptor::Descriptors;
use crate::event::{Event, Events};
use crate::mmsg::Sender;
use crate::publish::FibReader;
use crate::pulse::{Mode, Pulse};
use crate::tun::TunReader;
use crate::{clock, raw_icmp};

/// What the thread works with.
pub(crate) struct OutboundThread {
    pub(crate) descriptors: Descriptors,
    pub(crate) outbound: Outbound,
    pub(crate) fibs: FibReader,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) events: Arc<Events>,
}

impl OutboundThread {
    /// Runs until it is told to stop, or until the device fails for good.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let Self { descriptors, mut outbound, mut fibs, pulse, events } = self;
        let Descriptors { tun, underlay, icmp } = descriptors;
        let mut reader = TunReader::new(&tun);
        let mut sender = Sender::new();
        while pulse.wait_readable(&tun)?.is_some() {
            let mut more = true;
            while more && pulse.mode() == Mode::Run {
                pulse.beat();
                let fib = fibs.current();
                more = fill(&mut reader, &mut outbound, fib)?;
                flush(&mut sender, &underlay, &outbound, fib, &pulse, &events)?;
                raw_icmp::send(&icmp, outbound.replies(), outbound.counters());
                outbound.clear();
            }
        }
        Ok(())
    }
}

/// Reads packets until the batch is full or the device is empty; returns whether there may be
/// more.
fn fill(reader: &mut TunReader<'_>, outbound: &mut Outbound, fib: &Fib) -> Result<bool, Errno> {
    let now_ns = clock::now_ns();
    for count in 0..MAX_DATAGRAMS {
        if !outbound.batch().has_room() {
            return Ok(true);
        }
        match reader.read() {
            Ok((vnet, packet)) => outbound.handle(fib, vnet, packet, now_ns),
            Err(Errno::AGAIN) => {
                if count > 0 {
                    outbound.counters().batches.add(1);
                }
                return Ok(false);
            }
            Err(errno) => return Err(errno),
        }
    }
    outbound.counters().batches.add(1);
    Ok(true)
}

fn flush(
    sender: &mut Sender,
    underlay: &OwnedFd,
    outbound: &Outbound,
    fib: &Fib,
    pulse: &Pulse,
    events: &Events,
) -> Result<(), Errno> {
    let datagrams = outbound.batch().datagrams();
    let mut done = 0;
    while done < datagrams.len() {
        let goes_on = match sender.send(underlay, outbound.batch(), done) {
            Ok(count) => {
                let now_ns = clock::now_ns();
                (done..done + count).for_each(|place| outbound.sent(fib, place, now_ns));
                done += count;
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => pulse.wait_writable(underlay)?,
            Err(Errno::NOBUFS | Errno::NOMEM) => pulse.wait_for_memory()?,
            Err(errno) => {
                let datagram = &datagrams[done];
                if errno == Errno::MSGSIZE {
                    let adjacency = Arc::clone(&fib.adjacency(datagram.adjacency).name);
                    events.push(Event::PathMtu { adjacency, size_bytes: datagram.inner_len });
                }
                outbound.refused(reason_of(errno));
                done += 1;
                true
            }
        };
        if !goes_on {
            datagrams[done..].iter().for_each(|_| outbound.refused(DropReason::Stopped));
            return Ok(());
        }
    }
    Ok(())
}

/// Returns why a datagram was dropped that the underlay answered with `errno`.
const fn reason_of(errno: Errno) -> DropReason {
    match errno {
        Errno::MSGSIZE => DropReason::TooBigForUnderlay,
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::ADDRNOTAVAIL => DropReason::UnderlayUnreachable,
        _ => DropReason::UnderlayRefused,
    }
}
