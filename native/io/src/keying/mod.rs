//! The keys of a data path: whom it shakes hands with, by which SAs its packets are sealed and opened.
//!
//! Path of a message: underlay → `io::inbound` → `intake` → **`keying`** (→ `handshake::node`) →
//! underlay; keys go from here to `core::sad`, where data threads find them.
//! One thread does what takes long ([`thread`]). What the control plane asks for is done where it asks,
//! under the lock of the [`state`], so that it has happened when the call returns.
//!
//! Secrets are in the state and in the sets of the `sad`; both are empty after the end.

pub(crate) mod exits;
mod identities;
pub(crate) mod intake;
mod moment;
mod peer;
mod security;
mod state;
pub(crate) mod thread;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunneld_core::counters::WorkerCounters;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::inbound::Inbound;
use tunneld_core::sad::Sad;
use tunneld_esp::known_answers;
use tunneld_esp::provider::Provider;
use tunneld_handshake::cipher::Ciphers;
use tunneld_handshake::key::Identity;
use tunneld_handshake::node::{Moment, Node, Settings};
use tunneld_handshake::payload::{Claim, MOST_LANES};
use tunneld_handshake::psk::Psks;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::event::Events;
use crate::pulse::Pulse;
use exits::Exits;
pub use identities::{Identities, Trusted};
use intake::Intake;
pub use security::{KeyState, OwnSecurity, Security};
use state::State;

/// What encryption goes by, from the start of a data path to its end.
pub struct Encryption {
    /// The key of this host.
    pub identity: Identity,
    /// The PSKs, none if trust needs none.
    pub psks: Vec<Zeroizing<Vec<u8>>>,
    /// The name of the network: hosts of two networks share no keys.
    pub network: String,
    /// The ciphers that are taken.
    pub ciphers: Ciphers,
    /// Who seals and opens.
    pub provider: Provider,
    /// Random, one for each start of the process.
    pub instance: [u8; 8],
    /// The subnets of this host.
    pub claim: Claim,
    /// A dummy every so many nanoseconds, for hosts behind NAT.
    pub keepalive_ns: Option<u64>,
}

/// The keys of a data path, shared by the control side, the data threads and the thread that shakes
/// hands.
pub(crate) struct Keying {
    pub(crate) sad: Arc<Sad>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) counters: Arc<WorkerCounters>,
    /// Of the thread that shakes hands.
    pub(crate) pulse: Arc<Pulse>,
    own: OwnSecurity,
    network: String,
    /// `None` after the end.
    state: Mutex<Option<State>>,
    /// Calls of the control plane that want the lock: the thread lets them go first.
    calls: AtomicUsize,
}

impl Keying {
    /// Returns the keys of a data path with as many lanes as `exits` has, on UDP port `port`.
    ///
    /// # Errors
    ///
    /// [`Error::Lanes`], [`Error::Psks`], [`Error::SelfTest`], [`Error::Kernel`].
    pub(crate) fn new(
        encryption: Encryption,
        exits: Exits,
        events: Arc<Events>,
        pulse: Arc<Pulse>,
        port: u16,
    ) -> Result<Self, Error> {
        let workers = exits.lanes.len();
        let lanes = u8::try_from(workers).ok().filter(|lanes| *lanes <= MOST_LANES);
        let lanes = lanes.ok_or(Error::Lanes { workers })?;
        let Encryption { identity, network, ciphers, provider, instance, claim, .. } = encryption;
        known_answers::check(provider).map_err(Error::SelfTest)?;
        moment::check()?;
        let psks = Psks::new(&network, &encryption.psks).map_err(Error::Psks)?;
        let public_key = identity.public();
        let own = OwnSecurity { public_key, cipher: ciphers.preferred(), provider, port };
        let keepalive_ns = encryption.keepalive_ns;
        let network_again = network.clone();
        let node = Node::new(Settings {
            identity,
            psks,
            network,
            ciphers,
            instance,
            lanes,
            claim,
            keepalive_ns,
        });
        let (sad, counters) = (Arc::new(Sad::new(workers)), Arc::new(WorkerCounters::default()));
        let state = State {
            node,
            sad: Arc::clone(&sad),
            provider,
            exits,
            events,
            claim,
            counters: Arc::clone(&counters),
            peers: BTreeMap::new(),
            pairs: BTreeMap::new(),
        };
        Ok(Self {
            sad,
            intake: Arc::default(),
            counters,
            pulse,
            own,
            network: network_again,
            state: Mutex::new(Some(state)),
            calls: AtomicUsize::new(0),
        })
    }

    /// Returns what this host is.
    pub(crate) const fn own(&self) -> OwnSecurity {
        self.own
    }

    /// Derives what the handshake takes from PSKs.
    ///
    /// # Errors
    ///
    /// [`Error::Psks`].
    pub(crate) fn psks(&self, psks: &[Zeroizing<Vec<u8>>]) -> Result<Psks, Error> {
        Psks::new(&self.network, psks).map_err(Error::Psks)
    }

    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something for the control plane, and what follows; `None` after the end.
    pub(crate) fn on_call<T>(
        &self,
        work: impl FnOnce(&mut State, &mut Moment<'_>) -> T,
    ) -> Option<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        self.calls.fetch_sub(1, Ordering::Relaxed);
        let done = state.as_mut().map(|state| work(state, &mut moment::now(&mut moment::Kernel)));
        drop(state);
        // Something may be due earlier than before.
        self.pulse.nudge();
        done
    }

    /// Takes what a batch brought beside packets; the messages that have no room are dropped.
    pub(crate) fn take_from(&self, inbound: &Inbound) {
        let mut messages = inbound.controls().iter().peekable();
        let unknown = inbound.unknown_spis();
        let has_messages = messages.peek().is_some();
        if !has_messages && unknown.is_empty() && !inbound.proves() {
            return;
        }
        if has_messages {
            inbound.refused(DropReason::HandshakeOverflow, self.intake.leave(messages));
        }
        self.intake.leave_unknown(unknown.iter().copied());
        if inbound.proves() {
            self.intake.leave_news();
        }
        self.pulse.nudge();
    }

    /// Does something in the thread that shakes hands.
    fn on_thread(&self, work: impl FnOnce(&mut State, &mut Moment<'_>)) {
        // Under a flood the thread would take the lock again before a call could.
        while self.calls.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        if let Some(state) = self.lock().as_mut() {
            work(state, &mut moment::now(&mut moment::Kernel));
        }
    }

    /// Returns when the state machine has something to do, and whether there are sets.
    fn next(&self) -> (Option<u64>, bool) {
        let state = self.lock();
        let state = state.as_ref();
        (state.and_then(|state| state.node.next_deadline()), state.is_some_and(State::has_sets))
    }

    /// Ends everything, and wipes the keys.
    pub(crate) fn end(&self) {
        let ended = self.lock().take();
        if let Some(mut state) = ended {
            state.end(&mut moment::now(&mut moment::Kernel));
        }
    }
}

#[cfg(test)]
mod tests;
