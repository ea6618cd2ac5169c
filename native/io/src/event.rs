//! What comes up in the data threads, on its way to Python.
//!
//! A bounded queue and an eventfd that is readable while the queue holds something. Data threads
//! come here only when something is wrong, never with a packet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use tunneld_core::probe::Answer;

use crate::duty::Duty;
use crate::error::Error;
use crate::eventfd;
use crate::offload::Offload;

/// Most events that are kept; beyond, the oldest goes.
const CAPACITY: usize = 1_024;

/// Beyond as many, further answers to probes are as if lost: a peer may answer more often than it is
/// asked, and that is to cost no other event its place.
const MAX_BEFORE_ANSWER: usize = CAPACITY / 2;

/// Something that came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The underlay refused a datagram for its size.
    PathMtu {
        /// Name of the adjacency.
        adjacency: Arc<str>,
        /// Size of the inner packet that did not fit.
        size_bytes: usize,
        /// Largest IP packet the path takes, as the kernel says; `None`: it does not say.
        path_mtu_bytes: Option<u32>,
    },
    /// A peer answered a probe.
    ProbeAnswered(Answer),
    /// The kernel refuses what it had said it can; the data path does without for a while. Of the
    /// paths to peers, the first one.
    OffloadLost {
        /// What it refuses.
        offload: Offload,
        /// What it said.
        errno: Errno,
        /// Name of the adjacency, where it is about a path.
        adjacency: Option<Arc<str>>,
    },
    /// The kernel takes again what it refused; of the paths to peers, on all of them.
    OffloadBack {
        /// What it takes.
        offload: Offload,
    },
    /// A thread is gone without having been asked to.
    WorkerEnded {
        /// Number of the worker.
        worker: usize,
        /// Which of its threads.
        duty: Duty,
        /// Why.
        reason: String,
    },
}

/// The queue.
pub(crate) struct Events {
    queue: Mutex<VecDeque<Event>>,
    ready: OwnedFd,
}

impl Events {
    pub(crate) fn new() -> Result<Self, Error> {
        let queue = Mutex::new(VecDeque::with_capacity(CAPACITY));
        Ok(Self { queue, ready: eventfd::new()? })
    }

    /// Adds an event, unless it is the same as the one before it. Of a path's MTU the latest word
    /// is kept.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.back() == Some(&event) {
            return;
        }
        if matches!(event, Event::ProbeAnswered(_)) && queue.len() >= MAX_BEFORE_ANSWER {
            return;
        }
        if let Event::PathMtu { adjacency: path, .. } = &event {
            queue.retain(
                |other| !matches!(other, Event::PathMtu { adjacency, .. } if adjacency == path),
            );
        }
        if queue.len() == CAPACITY {
            queue.pop_front();
        }
        queue.push_back(event);
        eventfd::signal(&self.ready);
    }

    /// Takes all events, oldest first.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        eventfd::clear(&self.ready);
        queue.drain(..).collect()
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_mtu(number: usize) -> Event {
        let adjacency = number.to_string().into();
        Event::PathMtu { adjacency, size_bytes: 1_472, path_mtu_bytes: Some(1_400) }
    }

    fn is_readable(events: &Events) -> bool {
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(events.as_fd(), rustix::event::PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).unwrap() == 1
    }

    #[test]
    fn the_descriptor_is_readable_while_something_is_there() {
        let events = Events::new().unwrap();
        assert!(!is_readable(&events));
        events.push(path_mtu(1));
        events.push(path_mtu(2));
        assert!(is_readable(&events));
        assert_eq!(events.drain(), [path_mtu(1), path_mtu(2)]);
        assert!(!is_readable(&events));
    }

    #[test]
    fn a_flood_of_one_event_is_kept_once() {
        let events = Events::new().unwrap();
        for _ in 0..10_000 {
            events.push(path_mtu(1));
        }
        assert_eq!(events.drain(), [path_mtu(1)]);
    }

    #[test]
    fn of_each_path_the_latest_word_is_kept() {
        let events = Events::new().unwrap();
        let word = |adjacency: &str, mtu| Event::PathMtu {
            adjacency: adjacency.into(),
            size_bytes: 1_472,
            path_mtu_bytes: Some(mtu),
        };
        for mtu in 1_000..2_000 {
            events.push(word("a", mtu));
            events.push(word("b", mtu));
        }
        assert_eq!(events.drain(), [word("a", 1_999), word("b", 1_999)]);
    }

    #[test]
    fn answers_to_probes_push_nothing_else_out() {
        let events = Events::new().unwrap();
        events.push(path_mtu(1));
        let answer = |path| Event::ProbeAnswered(Answer { token: 7, path });
        (0..10_000).for_each(|path| events.push(answer(path)));
        events.push(path_mtu(2));
        let drained = events.drain();
        assert_eq!((drained.first(), drained.last()), (Some(&path_mtu(1)), Some(&path_mtu(2))));
        assert!(drained.contains(&answer(0)));
    }

    #[test]
    fn the_newest_events_are_kept() {
        let events = Events::new().unwrap();
        for size in 0..2_000 {
            events.push(path_mtu(size));
        }
        let drained = events.drain();
        assert_eq!(drained.len(), 1_024);
        assert_eq!(drained.last(), Some(&path_mtu(1_999)));
    }
}
