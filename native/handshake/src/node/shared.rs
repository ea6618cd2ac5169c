//! What all peers of a node share: its settings, its limits, who is due when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::kdf::MacKey;
use crate::key::PublicKey;
use crate::limits::{Bucket, Sources};
use crate::mac::{Cookies, mac1_key};
use crate::noise::{self, Start, Suite};
use crate::payload::Timestamp;
use crate::spis::Spis;

use super::peer::Peer;
use super::timers::{LOAD_NS, LOADED, PROVOKED_PER_S};
use super::{Moment, Output, SetId, Settings};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    suite: Suite,
    prologue: Vec<u8>,
    /// Of messages to this node.
    pub(super) mac1: MacKey,
    pub(super) outputs: VecDeque<Output>,
    /// Initiations that wait for an answer, by sender index.
    pub(super) pending: BTreeMap<u32, PublicKey>,
    pub(super) sets: BTreeMap<SetId, PublicKey>,
    pub(super) spis: Spis,
    pub(super) deadlines: BTreeSet<(u64, PublicKey)>,
    pub(super) cookies: Cookies,
    pub(super) sources: Sources,
    pub(super) provoked: Bucket,
    pub(super) waiting_bytes: usize,
    loaded_until_ns: Option<u64>,
    last_timestamp: Timestamp,
}

impl Shared {
    pub(super) fn new(settings: Settings, suite: Suite) -> Self {
        Self {
            suite,
            prologue: noise::prologue(&settings.network),
            mac1: mac1_key(&settings.identity.public()),
            settings,
            outputs: VecDeque::new(),
            pending: BTreeMap::new(),
            sets: BTreeMap::new(),
            spis: Spis::default(),
            deadlines: BTreeSet::new(),
            cookies: Cookies::default(),
            sources: Sources::default(),
            provoked: Bucket::new(PROVOKED_PER_S, PROVOKED_PER_S),
            waiting_bytes: 0,
            loaded_until_ns: None,
            last_timestamp: Timestamp::default(),
        }
    }

    pub(super) fn start(&self) -> Start<'_> {
        let Self { settings, prologue, suite, .. } = self;
        Start { identity: &settings.identity, prologue, suite: *suite }
    }

    /// Returns whether there is load, now that so many messages wait.
    pub(super) fn is_loaded(&mut self, queued: usize, now_ns: u64) -> bool {
        if queued > LOADED {
            self.loaded_until_ns = Some(now_ns + LOAD_NS);
        }
        self.loaded_until_ns.is_some_and(|until_ns| now_ns < until_ns)
    }

    /// Returns a timestamp greater than any before: a wall clock may stand still or go back.
    pub(super) fn timestamp(&mut self, wall: Timestamp) -> Timestamp {
        self.last_timestamp = wall.max(self.last_timestamp.successor());
        self.last_timestamp
    }

    /// Returns a sender index that no other initiation under way has.
    pub(super) fn index(&self, at: &mut Moment<'_>) -> u32 {
        loop {
            let index = u32::from_be_bytes(crate::random(at.random));
            if !self.pending.contains_key(&index) {
                return index;
            }
        }
    }

    /// Notes when a peer is due next.
    pub(super) fn schedule(&mut self, peer: &mut Peer) {
        let due_ns = peer.due_ns();
        if due_ns != peer.scheduled_ns {
            self.unschedule(peer);
            peer.scheduled_ns = due_ns;
            self.deadlines.extend(due_ns.map(|due_ns| (due_ns, peer.key)));
        }
    }

    pub(super) fn unschedule(&mut self, peer: &Peer) {
        if let Some(due_ns) = peer.scheduled_ns {
            self.deadlines.remove(&(due_ns, peer.key));
        }
    }
}
