//! The outbound thread: reads packets from the device, sends datagrams to the underlay.
//!
//! Path of a packet: TUN → **`io::outbound`** (→ `core::outbound`) → underlay.
//! Where the underlay is full the thread waits and the device's queue fills: nothing is lost.
//! A train that the kernel refuses to cut is sent datagram by datagram instead.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::slice;
use std::sync::Arc;

use rustix::io::Errno;
use tunneld_core::batch::{MAX_TRAINS, Queue, Train};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Fib;
use tunneld_core::outbound::Outbound;

use crate::descriptor::{Descriptors, Icmp};
use crate::event::{Event, Events};
use crate::mmsg::Sender;
use crate::offload::Offload;
use crate::offloads::Offloads;
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
    pub(crate) offloads: Arc<Offloads>,
}

impl OutboundThread {
    /// Runs until it is told to stop, or until the device fails for good.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let Self { descriptors, mut outbound, mut fibs, pulse, events, offloads } = self;
        let Descriptors { tun, underlay, icmp } = descriptors;
        let mut reader = TunReader::new(&tun);
        let mut exit = Exit {
            sender: Sender::new(),
            sockets: underlay.by_queue(),
            icmp: &icmp,
            pulse: &pulse,
            events: &events,
            offloads: &offloads,
        };
        while pulse.wait_readable(slice::from_ref(&tun))?.is_some() {
            let mut more = true;
            while more && pulse.mode() == Mode::Run {
                pulse.beat();
                let fib = fibs.current();
                more = fill(&mut reader, &mut outbound, fib, &mut exit)?;
                exit.flush(&mut outbound, fib)?;
            }
        }
        Ok(())
    }
}

/// Reads packets until the batch is full or the device is empty; returns whether there may be
/// more.
fn fill(
    reader: &mut TunReader<'_>,
    outbound: &mut Outbound,
    fib: &Fib,
    exit: &mut Exit<'_>,
) -> Result<bool, Errno> {
    let now_ns = clock::now_ns();
    for count in 0..MAX_TRAINS {
        if !outbound.batch().has_room() {
            break;
        }
        match reader.read() {
            Ok((vnet, packet)) => {
                outbound.handle(fib, vnet, packet, now_ns);
                while outbound.is_unfinished() {
                    exit.flush(outbound, fib)?;
                    outbound.resume(fib, packet);
                }
            }
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

/// The way out: where a batch goes, and what is done when it does not go.
struct Exit<'a> {
    sender: Sender,
    /// For each queue of a batch.
    sockets: Vec<Option<&'a OwnedFd>>,
    icmp: &'a Icmp,
    pulse: &'a Pulse,
    events: &'a Events,
    offloads: &'a Offloads,
}

/// A queue of the batch, and the socket it leaves by.
#[derive(Clone, Copy)]
struct Way<'a> {
    queue: &'a Queue,
    socket: &'a OwnedFd,
}

/// How far a step of sending came.
struct Step {
    /// The first train that is still to be sent.
    next: usize,
    /// How many datagrams left.
    sent: usize,
    /// Whether the thread is to stop with what is in hand.
    stop: bool,
}

/// What to do about an error of the underlay.
enum Answer {
    Retry,
    Stop,
    Drop(DropReason),
}

impl Exit<'_> {
    /// Sends the batch and the replies, and empties both.
    fn flush(&mut self, outbound: &mut Outbound, fib: &Fib) -> Result<(), Errno> {
        self.send(outbound, fib)?;
        raw_icmp::send(self.icmp, outbound.replies(), outbound.counters());
        outbound.clear();
        Ok(())
    }

    fn send(&mut self, outbound: &Outbound, fib: &Fib) -> Result<(), Errno> {
        for (number, queue) in outbound.batch().queues().iter().enumerate() {
            if queue.trains().is_empty() {
                continue;
            }
            match self.sockets[number] {
                Some(socket) => self.send_queue(outbound, fib, Way { queue, socket })?,
                // The family of the peer's underlay is one that this host has not.
                None => outbound.refused(DropReason::UnderlayUnreachable, count(queue.trains())),
            }
        }
        Ok(())
    }

    fn send_queue(&mut self, outbound: &Outbound, fib: &Fib, way: Way<'_>) -> Result<(), Errno> {
        let trains = way.queue.trains();
        let mut first = 0;
        while first < trains.len() {
            let step = if self.offloads.is_on(Offload::UdpGso) {
                self.send_trains(outbound, fib, way, first)?
            } else {
                self.send_singly(outbound, fib, way, first..trains.len())?
            };
            first = step.next;
            if step.stop {
                outbound.refused(DropReason::Stopped, count(&trains[first..]));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Makes one call for the trains from `first` on.
    fn send_trains(
        &mut self,
        outbound: &Outbound,
        fib: &Fib,
        way: Way<'_>,
        first: usize,
    ) -> Result<Step, Errno> {
        let trains = way.queue.trains();
        let errno = match self.sender.send_trains(way.socket, way.queue, first) {
            Ok(count) => {
                let (next, now_ns) = (first + count, clock::now_ns());
                let gone = &trains[first..next];
                gone.iter().for_each(|train| outbound.sent(fib, train, &(0..train.count), now_ns));
                return Ok(Step { next, sent: self::count(gone), stop: false });
            }
            Err(errno) => errno,
        };
        let train = &trains[first];
        if train.count > 1 && may_be_about_trains(errno) {
            let step = self.send_singly(outbound, fib, way, first..first + 1)?;
            // What does not go alone either says nothing about trains, and a size that is too
            // large for the path says nothing about other sizes.
            if errno != Errno::MSGSIZE && step.sent > 0 {
                self.offloads.fall_back(Offload::UdpGso, errno, self.events);
            }
            return Ok(step);
        }
        let mut step = Step { next: first, sent: 0, stop: false };
        match self.answer(way.socket, errno)? {
            Answer::Retry => {}
            Answer::Stop => step.stop = true,
            Answer::Drop(reason) => {
                outbound.refused(reason, train.count);
                self.report(fib, train, 0, errno);
                step.next += 1;
            }
        }
        Ok(step)
    }

    /// Sends some trains datagram by datagram.
    fn send_singly(
        &mut self,
        outbound: &Outbound,
        fib: &Fib,
        way: Way<'_>,
        which: Range<usize>,
    ) -> Result<Step, Errno> {
        let trains = way.queue.trains();
        let mut step = Step { next: which.start, sent: 0, stop: false };
        let mut done = 0;
        while step.next < which.end {
            let left = count(&trains[step.next..which.end]) - done;
            match self.sender.send_datagrams(way.socket, way.queue, (step.next, done), left) {
                Ok(mut count) => {
                    step.sent += count;
                    let now_ns = clock::now_ns();
                    while count > 0 {
                        let train = &trains[step.next];
                        let upto = (done + count).min(train.count);
                        outbound.sent(fib, train, &(done..upto), now_ns);
                        count -= upto - done;
                        (step.next, done) = place_after(train.count, step.next, upto);
                    }
                }
                Err(errno) => match self.answer(way.socket, errno)? {
                    Answer::Retry => {}
                    Answer::Stop => {
                        outbound.refused(DropReason::Stopped, trains[step.next].count - done);
                        step.next += 1;
                        step.stop = true;
                        return Ok(step);
                    }
                    Answer::Drop(reason) => {
                        outbound.refused(reason, 1);
                        let train = &trains[step.next];
                        self.report(fib, train, done, errno);
                        (step.next, done) = place_after(train.count, step.next, done + 1);
                    }
                },
            }
        }
        Ok(step)
    }

    /// Waits where waiting helps.
    fn answer(&self, socket: &OwnedFd, errno: Errno) -> Result<Answer, Errno> {
        let goes_on = match errno {
            Errno::INTR => true,
            Errno::AGAIN => self.pulse.wait_writable(socket)?,
            Errno::NOBUFS | Errno::NOMEM => self.pulse.wait_for_memory()?,
            _ => return Ok(Answer::Drop(reason_of(errno))),
        };
        Ok(if goes_on { Answer::Retry } else { Answer::Stop })
    }

    /// Reports a size that the underlay does not take.
    fn report(&self, fib: &Fib, train: &Train, datagram: usize, errno: Errno) {
        if errno == Errno::MSGSIZE {
            let adjacency = Arc::clone(&fib.adjacency(train.adjacency).name);
            let size_bytes = train.inner_len(&(datagram..datagram + 1));
            self.events.push(Event::PathMtu { adjacency, size_bytes });
        }
    }
}

/// Returns the number of datagrams in some trains.
fn count(trains: &[Train]) -> usize {
    trains.iter().map(|train| train.count).sum()
}

/// Returns the place behind the first `done` of `count` datagrams of train `train`.
const fn place_after(count: usize, train: usize, done: usize) -> (usize, usize) {
    if done == count { (train + 1, 0) } else { (train, done) }
}

/// Returns whether an error can come from sending a train rather than a datagram: no checksum
/// offload on the way out, IPsec there, an old kernel, a segment larger than the path's MTU.
const fn may_be_about_trains(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::IO | Errno::INVAL | Errno::MSGSIZE | Errno::OPNOTSUPP | Errno::NOPROTOOPT
    )
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
