//! The way out of a batch: trains for the kernel to cut, or datagram by datagram.
//!
//! Path of a packet: `io::outbound` → **`io::exit`** (→ `mmsg`) → underlay.
//! Where the underlay is full the thread waits and the device's queue fills: nothing is lost. What
//! arrives meanwhile is served, where that is the same thread's duty. A train that the kernel
//! refuses to cut is sent datagram by datagram instead.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use tunneld_core::batch::{Purpose, Queue, Train};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Fib;
use tunneld_core::outbound::{Outbound, Refused};
use tunneld_core::path_mtu::PathMtus;

use crate::data_thread::Surroundings;
use crate::event::Event;
use crate::inbound::InboundDuty;
use crate::mmsg::Sender;
use crate::offload::Offload;
use crate::path_mtu::{Asked, Discovery};
use crate::{clock, raw_icmp};

/// Where a batch goes, and what is done when it does not go.
pub(crate) struct Exit<'a, 'b> {
    pub(crate) surroundings: Surroundings<'a>,
    pub(crate) sender: &'b mut Sender,
    /// For each queue of a batch.
    pub(crate) sockets: &'b [Option<&'a OwnedFd>],
    /// What the kernel said of the paths.
    pub(crate) path_mtus: &'b mut PathMtus,
    /// What was refused for its size, to be answered once the batch is through.
    pub(crate) too_big: &'b mut Vec<Refused>,
    /// What goes on while the underlay is full.
    pub(crate) meanwhile: Option<&'b mut InboundDuty<'a>>,
}

/// A queue of the batch, and the socket it leaves by.
#[derive(Clone, Copy)]
struct Way<'a> {
    number: usize,
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

impl Exit<'_, '_> {
    /// Sends the batch and the replies, and empties both.
    pub(crate) fn flush(&mut self, outbound: &mut Outbound, fib: &Fib) -> Result<(), Errno> {
        self.send(outbound, fib)?;
        if !self.too_big.is_empty() {
            let now_ns = clock::now_ns();
            self.too_big
                .drain(..)
                .for_each(|refused| outbound.answer_refused(fib, &refused, now_ns));
        }
        raw_icmp::send(
            &self.surroundings.descriptors.icmp,
            outbound.replies(),
            outbound.counters(),
        );
        outbound.clear();
        Ok(())
    }

    fn send(&mut self, outbound: &Outbound, fib: &Fib) -> Result<(), Errno> {
        for (number, queue) in outbound.batch().queues().iter().enumerate() {
            if queue.trains().is_empty() {
                continue;
            }
            match self.sockets[number] {
                Some(socket) => self.send_queue(outbound, fib, Way { number, queue, socket })?,
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
            let step = if self.surroundings.offloads.is_on(Offload::UdpGso) {
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
                self.surroundings.offloads.fall_back(
                    Offload::UdpGso,
                    errno,
                    self.surroundings.events,
                );
            }
            return Ok(step);
        }
        let mut step = Step { next: first, sent: 0, stop: false };
        match self.answer(way.socket, errno)? {
            Answer::Retry => {}
            Answer::Stop => step.stop = true,
            // A train of one: longer ones have been sent singly, where it can be about their size.
            Answer::Drop(DropReason::TooBigForUnderlay) if train.count == 1 => {
                self.refused_for_size(outbound, fib, way, (first, 0));
                step.next += 1;
            }
            Answer::Drop(reason) => {
                outbound.refused(reason, train.count);
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
                        if reason == DropReason::TooBigForUnderlay {
                            self.refused_for_size(outbound, fib, way, (step.next, done));
                        } else {
                            outbound.refused(reason, 1);
                        }
                        let count = trains[step.next].count;
                        (step.next, done) = place_after(count, step.next, done + 1);
                    }
                },
            }
        }
        Ok(step)
    }

    /// Waits where waiting helps.
    fn answer(&mut self, socket: &OwnedFd, errno: Errno) -> Result<Answer, Errno> {
        let goes_on = match errno {
            Errno::INTR => true,
            Errno::AGAIN => self.wait_writable(socket)?,
            Errno::NOBUFS | Errno::NOMEM => self.surroundings.pulse.wait_for_memory()?,
            _ => return Ok(Answer::Drop(reason_of(errno))),
        };
        Ok(if goes_on { Answer::Retry } else { Answer::Stop })
    }

    /// Waits until `socket` takes more. Returns false to stop instead.
    fn wait_writable(&mut self, socket: &OwnedFd) -> Result<bool, Errno> {
        loop {
            let others = self.meanwhile.as_ref().map_or(&[][..], |inbound| inbound.sockets());
            match self.surroundings.pulse.wait_writable(socket.as_fd(), others)? {
                None => return Ok(false),
                Some((true, _)) => return Ok(true),
                Some((false, ready)) => {
                    if let Some(inbound) = &mut self.meanwhile {
                        inbound.note(&ready);
                        inbound.pass()?;
                    }
                }
            }
        }
    }

    /// Deals with a datagram that the underlay refused for its size: learns and reports what would
    /// fit, then sends it in fragments where IP allows that, or has its sender told.
    #[cold]
    fn refused_for_size(
        &mut self,
        outbound: &Outbound,
        fib: &Fib,
        way: Way<'_>,
        place: (usize, usize),
    ) {
        let train = &way.queue.trains()[place.0];
        if train.passage.purpose == Purpose::Probe {
            return;
        }
        let which = place.1..place.1 + 1;
        let now_ns = clock::now_ns();
        let path_mtu_bytes = match self.path_mtus.recent(&train.endpoint, now_ns) {
            Some(known) => known,
            None => {
                let is_ipv4 = train.endpoint.is_ipv4();
                let discovery = Discovery { socket: way.socket, is_ipv4 };
                let sender = &mut *self.sender;
                match discovery.ask(|| sender.send_datagrams(way.socket, way.queue, place, 1)) {
                    Asked::Went => return outbound.sent(fib, train, &which, now_ns),
                    Asked::Otherwise(errno) => return outbound.refused(reason_of(errno), 1),
                    Asked::Refused(path_mtu_bytes) => {
                        if self.path_mtus.learn(train.endpoint, path_mtu_bytes, now_ns) {
                            let adjacency = Arc::clone(&fib.adjacency(train.adjacency).name);
                            let size_bytes = train.inner_len(&which);
                            let event = Event::PathMtu { adjacency, size_bytes, path_mtu_bytes };
                            self.surroundings.events.push(event);
                        }
                        path_mtu_bytes
                    }
                }
            }
        };
        if outbound.may_fragment(way.number, place) {
            match self.sender.send_in_fragments(way.socket, way.queue, place) {
                Ok(_) => outbound.sent(fib, train, &which, now_ns),
                Err(errno) => outbound.refused(reason_of(errno), 1),
            }
            return;
        }
        outbound.refused(DropReason::TooBigForUnderlay, 1);
        if let Some(path_mtu_bytes) = path_mtu_bytes {
            if self.too_big.len() < self.too_big.capacity() {
                self.too_big.push(Refused { queue: way.number, place, path_mtu_bytes });
            }
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
