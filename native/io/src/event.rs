//! What comes up in the data threads, on its way to Python.
//!
//! A bounded queue and an eventfd that is readable while the queue holds something. Data threads
//! come here only when something is wrong, never with a packet.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use tunneld_core::probe::Answer;
use tunneld_core::sad::Claim;
use tunneld_handshake::key::PublicKey;

use crate::duty::Duty;
use crate::error::Error;
use crate::eventfd;
use crate::offload::Offload;

/// Most events that are kept; beyond, the oldest goes.
const CAPACITY: usize = 1_024;

/// Beyond as many, further answers to probes are as if lost: a peer may answer more often than it is
/// asked, and that is to cost no other event its place.
const MAX_BEFORE_ANSWER: usize = CAPACITY / 2;

/// Most peers whose keys something is kept about. There are never so many, but who is dropped and put
/// again and again, as others every time, would else be kept while nobody looks.
const MAX_KEYS: usize = 16_384;

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
    /// Keys were agreed with a peer, and what it said takes effect.
    KeysConfirmed {
        /// Who it is.
        key: PublicKey,
        /// What it says that it holds.
        claim: Claim,
        /// Where its packets go.
        endpoint: SocketAddr,
        /// Which start of it this is.
        instance: [u8; 8],
    },
    /// There are no keys for a peer any more.
    KeysLost {
        /// Who it is.
        key: PublicKey,
    },
    /// A peer did not answer for long: the handshake ends until there is a packet again.
    HandshakeGivenUp {
        /// Who it is.
        key: PublicKey,
        /// How many packets waited, which are dropped.
        packets: usize,
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
    waiting: Mutex<Waiting>,
    ready: OwnedFd,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Event>,
    /// Of the keys of each peer the latest word, which no flood pushes out; as many as peers.
    keys: BTreeMap<PublicKey, Event>,
    /// Of the handshakes with each peer.
    handshakes: BTreeMap<PublicKey, Event>,
}

impl Events {
    pub(crate) fn new() -> Result<Self, Error> {
        let queue = VecDeque::with_capacity(CAPACITY);
        let waiting = Mutex::new(Waiting { queue, ..Waiting::default() });
        Ok(Self { waiting, ready: eventfd::new()? })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, unless it is the same as the one before it. Of a path's MTU and of a peer's
    /// keys the latest word is kept.
    pub(crate) fn push(&self, event: Event) {
        let Waiting { queue, keys, handshakes } = &mut *self.lock();
        match event {
            Event::KeysConfirmed { key, .. } | Event::KeysLost { key } => {
                if keys.len() == MAX_KEYS && !keys.contains_key(&key) {
                    keys.pop_first();
                }
                keys.insert(key, event);
            }
            Event::HandshakeGivenUp { key, .. } => {
                handshakes.insert(key, event);
            }
            _ => Self::push_to(queue, event),
        }
        eventfd::signal(&self.ready);
    }

    fn push_to(queue: &mut VecDeque<Event>, event: Event) {
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
    }

    /// Forgets that a peer did not answer which is none any more.
    pub(crate) fn forget_handshake(&self, key: &PublicKey) {
        self.lock().handshakes.remove(key);
    }

    /// Takes all events, oldest first, and then those about keys.
    pub(crate) fn drain(&self) -> Vec<Event> {
        let Waiting { queue, keys, handshakes } = &mut *self.lock();
        eventfd::clear(&self.ready);
        let about_keys = std::mem::take(handshakes).into_values();
        let about_keys = about_keys.chain(std::mem::take(keys).into_values());
        queue.drain(..).chain(about_keys).collect()
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
    fn of_each_peers_keys_the_latest_word_is_kept_whatever_else_there_is() {
        let events = Events::new().unwrap();
        let [a, b] = [1, 2].map(|number| PublicKey([number; 32]));
        let (claim, endpoint) = (Claim::default(), SocketAddr::from(([192, 0, 2, 1], 8286)));
        let confirmed =
            |key, last: u8| Event::KeysConfirmed { key, claim, endpoint, instance: [last; 8] };
        for number in 0..200 {
            events.push(confirmed(a, number));
            events.push(Event::KeysLost { key: b });
            events.push(confirmed(b, number));
            events.push(Event::HandshakeGivenUp { key: a, packets: usize::from(number) });
        }
        events.push(Event::KeysLost { key: a });
        (0..2_000).for_each(|size| events.push(path_mtu(size)));
        assert!(is_readable(&events));
        let drained = events.drain();
        assert_eq!(drained.len(), CAPACITY + 3);
        let about_keys = [
            Event::HandshakeGivenUp { key: a, packets: 199 },
            Event::KeysLost { key: a },
            confirmed(b, 199),
        ];
        assert_eq!(drained[CAPACITY..], about_keys);
        events.push(Event::KeysLost { key: a });
        events.push(Event::HandshakeGivenUp { key: a, packets: 1 });
        events.forget_handshake(&a);
        assert_eq!(events.drain(), [Event::KeysLost { key: a }]);
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
