//! Sends a batch with sendmmsg: as UDP_SEGMENT trains, or one datagram per message where GSO is off.
//!
//! Path of a packet: `io::outbound` → **`io::transmit`** (→ `aside`) → `mmsg` → underlay.
//! Nobody waits for another peer's way: a peer whose way is full is set [`aside`](crate::aside), and
//! what its way does not take there is dropped and counted. A train that the kernel refuses to cut
//! on its path is sent datagram by datagram, and so are the next ones on that path, for a while.

mod place;
mod refusing;
mod size;

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::time::Timespec;
use tunneld_core::batch::{Queue, Train};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Fib;
use tunneld_core::outbound::{Outbound, Refused};
use tunneld_core::path_mtu::PathMtus;
use tunneld_core::refusals::Refusals;
use tunneld_core::sidings::TRICKLE_SIDING;

use crate::aside::{Aside, Asides, Exit};
use crate::descriptor::FAMILIES;
use crate::duty::Meanwhile;
use crate::mmsg::{Outlet, Sender};
use crate::offload::Offload;
use crate::surroundings::Surroundings;
use crate::{clock, raw_icmp};

use place::{Place, Trial};

/// A peer that sent something within this time is heard from.
const HEARD_NS: u64 = 2_000_000_000;

/// Longest a thread waits for an underlay that is full, where nobody can be set aside.
const PATIENCE_NS: u64 = 5_000_000;

/// How often a thread asks again where the kernel has no memory, a millisecond apart.
const MEMORY_TRIES: usize = 5;

/// Where a batch goes, and what is done when it does not go.
pub(crate) struct Transmitter<'a, 'b> {
    pub(crate) surroundings: Surroundings<'a>,
    pub(crate) sender: &'b mut Sender,
    /// For each queue of a batch, what all peers share.
    pub(crate) sockets: &'b [Option<&'a OwnedFd>],
    pub(crate) asides: &'b mut Asides<'a>,
    /// The paths on which trains are refused.
    pub(crate) refusals: &'b mut Refusals,
    /// What the kernel said of the paths.
    pub(crate) path_mtus: &'b mut PathMtus,
    /// What was refused for its size, to be answered once the batch is through.
    pub(crate) too_big: &'b mut Vec<Refused>,
    /// What goes on while the underlay is full.
    pub(crate) meanwhile: Option<&'b mut dyn Meanwhile>,
}

/// A batch, and the queue of it that is being sent.
#[derive(Clone, Copy)]
struct Load<'a> {
    outbound: &'a Outbound,
    fib: &'a Fib,
    queue: &'a Queue,
    number: usize,
    exit: Exit,
}

/// How a train leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The siding of its peer, if that is set aside.
    siding: Option<usize>,
    /// Whether it may go in one piece.
    is_whole: bool,
}

/// What to do about an error of the underlay.
enum Answer {
    Retry,
    Stop,
    Drop(DropReason),
}

impl Transmitter<'_, '_> {
    /// Sends the batch and the replies, and empties both.
    pub(crate) fn flush(&mut self, outbound: &mut Outbound, fib: &Fib) -> Result<(), Errno> {
        if !self.refusals.is_empty() {
            self.review_refusals();
        }
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
            if self.sockets[number].is_some() {
                let exit = match number.checked_sub(outbound.batch().first_for_esp()) {
                    None => Exit::Plain,
                    Some(..FAMILIES) => Exit::Lane,
                    Some(_) => Exit::Port,
                };
                self.send_queue(Load { outbound, fib, queue, number, exit })?;
            } else {
                // The family of the peer's underlay is one that this host has not.
                outbound.refused(DropReason::UnderlayUnreachable, count(queue.trains()));
            }
        }
        Ok(())
    }

    fn send_queue(&mut self, load: Load<'_>) -> Result<(), Errno> {
        let trains = load.queue.trains();
        let mut place = Place::default();
        while let Some(train) = trains.get(place.train) {
            let mut way = self.way(load.exit, train);
            let mut end = place.train + self.run(load.exit, &trains[place.train..], way);
            if place.is_within() {
                (way.is_whole, end) = (false, place.train + 1);
            }
            if place.trickle == Some(place.train) {
                (way.siding, end) = (Some(TRICKLE_SIDING), place.train + 1);
            }
            if let Some(siding) = way.siding {
                let room = self.asides.of_mut(load.exit).admit(siding, &trains[place.train..end]);
                if room == 0 {
                    self.meets_full(load, &mut place);
                    continue;
                }
                end = place.train + room;
            }
            let stop = self.send_run(load, way, &mut place, end)?;
            if let Some(siding) = way.siding {
                self.asides.of_mut(load.exit).sent(&train.endpoint, siding);
            }
            if place.trickle.is_some() && self.asides.of(load.exit).is_through(&train.endpoint) {
                self.asides.of_mut(load.exit).set_aside(&train.endpoint, true);
            }
            if stop {
                let left = count(&trains[place.train..]) - place.done;
                load.outbound.refused(DropReason::Stopped, left);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends trains from `place` on and before `end`, which leave the same way, by one call.
    /// Returns whether to stop.
    fn send_run(
        &mut self,
        load: Load<'_>,
        way: Way,
        place: &mut Place,
        end: usize,
    ) -> Result<bool, Errno> {
        let Load { outbound, fib, queue, .. } = load;
        let (first, trains) = (place.train, queue.trains());
        let result = if way.is_whole {
            self.call(load, way, first, |sender, outlet| {
                sender.send_trains(outlet, queue, &(first..end))
            })
            .inspect(|gone| self.went_whole(&trains[first..first + gone]))
            .map(|gone| count(&trains[first..first + gone]))
        } else {
            let (done, left) = (place.done, count(&trains[first..end]) - place.done);
            self.call(load, way, first, |sender, outlet| {
                sender.send_datagrams(outlet, queue, (first, done), left)
            })
        };
        let train = &trains[first];
        let errno = match result {
            Ok(gone) => {
                count_sent(load, place, gone);
                if let Some(trial) = &mut place.trial {
                    trial.sent += gone;
                }
                place.advance(trains, gone);
                self.judge(fib, trains, first, place);
                return Ok(false);
            }
            Err(errno) => errno,
        };
        if way.is_whole && train.count > 1 && may_be_about_trains(errno) {
            place.trial = Some(Trial { errno, sent: 0, too_big: 0 });
            return Ok(false);
        }
        match self.answer(load, way, place, errno)? {
            Answer::Retry => {}
            Answer::Stop => return Ok(true),
            // Of a longer train its datagrams have been sent singly, where it can be their size.
            Answer::Drop(DropReason::TooBigForUnderlay) if !way.is_whole || train.count == 1 => {
                if let Some(trial) = &mut place.trial {
                    trial.too_big += 1;
                }
                self.refused_for_size(load, way, (first, place.done));
                place.advance(trains, 1);
                self.judge(fib, trains, first, place);
            }
            Answer::Drop(reason) => {
                let lost = if way.is_whole { train.count } else { 1 };
                outbound.refused(reason, lost);
                place.advance(trains, lost);
                self.judge(fib, trains, first, place);
            }
        }
        Ok(false)
    }

    /// Makes a call; a second time where the error may be an earlier datagram's, to another peer.
    fn call(
        &mut self,
        load: Load<'_>,
        way: Way,
        train: usize,
        call: impl Fn(&mut Sender, Outlet<'_>) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let Self { sender, sockets, asides, .. } = self;
        let Some(outlet) = outlet(sockets, asides.of(load.exit), load, way, train) else {
            return Err(Errno::AFNOSUPPORT);
        };
        match call(sender, outlet) {
            Err(errno) if may_be_late(errno) => call(sender, outlet),
            result => result,
        }
    }

    /// Decides what a train that was refused in one piece says of its path, once it is through.
    fn judge(&mut self, fib: &Fib, trains: &[Train], train: usize, place: &mut Place) {
        if place.train == train {
            return;
        }
        // What does not go alone either says nothing about trains, and a size that is too large
        // for the path says nothing about other sizes: kernels before 6.14 say EINVAL of that.
        match place.trial.take() {
            Some(Trial { errno, sent: 1.., too_big: 0 }) if errno != Errno::MSGSIZE => {
                self.refuses_trains(fib, &trains[train], errno);
            }
            _ => {}
        }
    }

    fn way(&self, exit: Exit, train: &Train) -> Way {
        let is_spared =
            !self.refusals.is_empty() && self.refusals.holds(&train.endpoint, clock::now_ns());
        Way {
            siding: self.asides.of(exit).home(&train.endpoint),
            is_whole: self.surroundings.offloads.is_on(Offload::UdpGso) && !is_spared,
        }
    }

    /// Returns how many of `trains` leave the way that the first one does: in a siding, of one
    /// peer.
    fn run(&self, exit: Exit, trains: &[Train], way: Way) -> usize {
        let first = trains[0].endpoint;
        let goes_along = |train: &&Train| {
            (way.siding.is_none() || train.endpoint == first) && self.way(exit, train) == way
        };
        1 + trains[1..].iter().take_while(goes_along).count()
    }

    /// A peer met its way full.
    fn meets_full(&mut self, load: Load<'_>, place: &mut Place) {
        let train = &load.queue.trains()[place.train];
        if place.rerouted != Some(place.train) {
            place.rerouted = Some(place.train);
            if self.finds_another_way(load, train) {
                return;
            }
        }
        if place.trickle != Some(place.train)
            && self.asides.of(load.exit).is_sharing(&train.endpoint)
            && self.asides.of_mut(load.exit).trickles(train)
        {
            place.trickle = Some(place.train);
            return;
        }
        let lost = train.count - place.done;
        load.outbound.refused(DropReason::WayFull, lost);
        place.advance(load.queue.trains(), lost);
        // Half a train says nothing.
        place.trial = None;
    }

    /// Looks for another way for a peer whose way is full. Returns whether there is one.
    fn finds_another_way(&mut self, load: Load<'_>, train: &Train) -> bool {
        let (peer, aside) = (&train.endpoint, self.asides.of_mut(load.exit));
        let last_rx_ns = load.fib.adjacency(train.adjacency).counters.read().last_rx_ns;
        let is_heard = last_rx_ns.is_some_and(|heard| clock::now_ns() < heard + HEARD_NS);
        if aside.home(peer).is_none() {
            return aside.set_aside(peer, is_heard);
        }
        aside.is_sharing(peer)
            && (is_heard || aside.is_through(peer))
            && aside.set_aside(peer, true)
    }

    /// Waits where waiting helps.
    fn answer(
        &mut self,
        load: Load<'_>,
        way: Way,
        place: &mut Place,
        errno: Errno,
    ) -> Result<Answer, Errno> {
        match errno {
            Errno::INTR => Ok(Answer::Retry),
            Errno::AGAIN => self.full(load, way, place),
            // The queue of the underlay's device.
            Errno::NOBUFS => Ok(Answer::Drop(DropReason::WayFull)),
            Errno::NOMEM => {
                place.tries += 1;
                Ok(if place.tries > MEMORY_TRIES {
                    Answer::Drop(DropReason::UnderlayRefused)
                } else if self.surroundings.pulse.wait_for_memory()? {
                    Answer::Retry
                } else {
                    Answer::Stop
                })
            }
            _ => Ok(Answer::Drop(reason_of(errno))),
        }
    }

    /// Answers a socket that is full.
    fn full(&mut self, load: Load<'_>, way: Way, place: &mut Place) -> Result<Answer, Errno> {
        let train = &load.queue.trains()[place.train];
        if self.asides.of(load.exit).is_possible(&train.endpoint) {
            let may_reroute = place.rerouted.replace(place.train) != Some(place.train);
            let is_rerouted =
                way.siding.is_none() && may_reroute && self.finds_another_way(load, train);
            return Ok(if is_rerouted { Answer::Retry } else { Answer::Drop(DropReason::WayFull) });
        }
        let Some(socket) = self.sockets[load.number] else { return Ok(Answer::Retry) };
        let end_ns = clock::now_ns() + PATIENCE_NS;
        loop {
            let now_ns = clock::now_ns();
            if now_ns >= end_ns {
                return Ok(Answer::Drop(DropReason::WayFull));
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: (end_ns - now_ns) as i64 };
            let others = self.meanwhile.as_ref().map_or(&[][..], |duty| duty.awaited());
            let pulse = self.surroundings.pulse;
            match pulse.wait_writable_for(socket.as_fd(), others, &timeout)? {
                None => return Ok(Answer::Stop),
                Some((true, _)) => return Ok(Answer::Retry),
                Some((false, ready)) => {
                    if let Some(duty) = &mut self.meanwhile {
                        duty.go_on(&ready)?;
                    }
                }
            }
        }
    }
}

/// Returns what a train of a queue leaves by.
fn outlet<'s>(
    sockets: &'s [Option<&OwnedFd>],
    aside: &'s Aside<'_>,
    load: Load<'_>,
    way: Way,
    train: usize,
) -> Option<Outlet<'s>> {
    let Some(siding) = way.siding else {
        return sockets[load.number].map(|socket| Outlet { socket, source: None });
    };
    let path = load.number % load.outbound.batch().paths();
    Some(aside.outlet(&load.queue.trains()[train].endpoint, siding, path))
}

/// Counts some datagrams from `place` on as sent.
fn count_sent(load: Load<'_>, place: &Place, datagrams: usize) {
    let now_ns = clock::now_ns();
    let (mut left, mut from) = (datagrams, place.done);
    for train in &load.queue.trains()[place.train..] {
        if left == 0 {
            break;
        }
        let upto = (from + left).min(train.count);
        load.outbound.sent(load.fib, train, &(from..upto), now_ns);
        (left, from) = (left - (upto - from), 0);
    }
}

/// Returns the number of datagrams in some trains.
fn count(trains: &[Train]) -> usize {
    trains.iter().map(|train| train.count).sum()
}

/// Returns whether an error can come from sending a train rather than a datagram: no checksum
/// offload on the way out, IPsec there, an old kernel, a segment larger than the path's MTU.
const fn may_be_about_trains(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::IO | Errno::INVAL | Errno::MSGSIZE | Errno::OPNOTSUPP | Errno::NOPROTOOPT
    )
}

/// Returns whether an error can be what became of an earlier datagram: the socket says so once, to
/// whatever is sent next.
const fn may_be_late(errno: Errno) -> bool {
    !matches!(errno, Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM)
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
