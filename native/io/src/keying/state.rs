//! The state machine with what it acts on: every input, and what is to be done after it.
//!
//! Path of a message: `keying::thread` → **`state`** (→ `handshake::node`) → `exits`, `core::sad`.
//! What the node wants done is done before the call returns: when a peer has been dropped, nothing is
//! opened or sealed for it any more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tunneld_core::counters::WorkerCounters;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::prefix::Prefix;
use tunneld_core::sad::{Claim, Heard, OpeningSet, Sad, SealingSet};
use tunneld_core::waiting::Waiter;
use tunneld_esp::keys::Secret;
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_esp::spi::SpiBase;
use tunneld_handshake::key::PublicKey;
use tunneld_handshake::node::{Moment, Node, Output, Record, Refusal, SaSet, SetId, Wait};
use tunneld_handshake::payload;

use super::exits::Exits;
use super::peer::{Pair, Peer, Proved};
use super::security::{KeyState, Security};
use crate::errands::{Fate, Packet};
use crate::event::{Event, Events};

/// How long no more packets are taken for a peer for which as many wait as may: whoever is sent to
/// without end, and does not answer, takes no room from others, and costs no time here.
const FULL_NS: u64 = 50_000_000;

/// What shakes hands.
pub(crate) struct State {
    pub(super) node: Node,
    pub(super) sad: Arc<Sad>,
    pub(super) provider: Provider,
    pub(super) exits: Exits,
    pub(super) events: Arc<Events>,
    /// What this host says that it holds.
    pub(super) claim: payload::Claim,
    /// Written under the lock of this state alone.
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) peers: BTreeMap<PublicKey, Peer>,
    pub(super) pairs: BTreeMap<SetId, Pair>,
}

impl State {
    // What the control plane says.

    /// Trusts a peer, or notes what its record says now.
    pub(crate) fn put(&mut self, key: PublicKey, record: Record, at: &mut Moment<'_>) {
        let Self { peers, sad, .. } = self;
        let peer = peers.entry(key).or_insert_with(|| Peer::new(sad.peer(key.0)));
        peer.protected.is_full_until(0);
        self.node.put_peer(key, record, at);
        self.act(at.now_ns);
        self.follow(&key);
    }

    /// Trusts a peer no longer. Afterwards nothing is opened or sealed for it.
    pub(crate) fn drop(&mut self, key: &PublicKey, at: &mut Moment<'_>) {
        self.node.remove_peer(key, at);
        self.act(at.now_ns);
        self.peers.remove(key);
        self.events.forget_handshake(key);
    }

    /// Says from now on that this host holds `claim`; who was told otherwise is told anew.
    pub(crate) fn set_claim(&mut self, claim: payload::Claim, at: &mut Moment<'_>) {
        if std::mem::replace(&mut self.claim, claim) != claim {
            self.on_node(at, |node, at| node.set_claim(claim, at));
        }
    }

    /// Ends all keys, and lets go of what waits for some.
    pub(crate) fn end(&mut self, at: &mut Moment<'_>) {
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let held = peer.held.drain(..).count();
            peer.protected.seal_by_none();
            // Whoever stops the data path needs no event about it.
            peer.sealing = None;
            self.count(DropReason::Stopped, held);
            self.drop(&key, at);
        }
    }

    /// Has the node do something, and does what follows.
    pub(crate) fn on_node(
        &mut self,
        at: &mut Moment<'_>,
        work: impl FnOnce(&mut Node, &mut Moment<'_>),
    ) {
        work(&mut self.node, at);
        self.act(at.now_ns);
    }

    /// Returns how each peer stands, sorted by key.
    pub(crate) fn security(&self, now_ns: u64) -> Vec<Security> {
        let mut sets: BTreeMap<PublicKey, usize> = BTreeMap::new();
        self.pairs.values().for_each(|pair| *sets.entry(pair.peer).or_default() += 1);
        let of = |(key, peer): (&PublicKey, &Peer)| {
            let state = match self.node.sealing(key) {
                Some(_) => KeyState::Confirmed,
                None if self.node.is_shaking_hands(key) => KeyState::Handshake,
                None => KeyState::Missing,
            };
            let pair = peer.sealing.and_then(|(set, _)| self.pairs.get(&set));
            Security {
                key: *key,
                state,
                cipher: pair.map(|pair| pair.cipher),
                age_ns: pair.map(|pair| now_ns.saturating_sub(pair.agreed_ns)),
                endpoint: self.node.endpoint(key),
                last_handshake_ns: peer.proved.map(|proved| now_ns.saturating_sub(proved.at_ns)),
                claim: peer.proved.map(|proved| proved.claim).unwrap_or_default(),
                instance: peer.proved.map(|proved| proved.instance),
                sets: sets.get(key).copied().unwrap_or(0),
                waiting_packets: peer.held.len(),
                last_error: peer.last_error.clone(),
            }
        };
        self.peers.iter().map(of).collect()
    }

    // What data threads saw.

    /// A handshake message came, with `queued` more behind it.
    pub(crate) fn message(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        queued: usize,
        at: &mut Moment<'_>,
    ) {
        if let Err(refusal) = self.node.message(bytes, from, queued, at) {
            let reason = reason_of(refusal);
            self.count(reason, 1);
            if is_telling(refusal) {
                self.blame(
                    from,
                    format!("a handshake message from there was refused: {}", reason.label()),
                );
            }
        }
        self.act(at.now_ns);
    }

    /// A packet has no SA to be sealed under: it waits, or does not.
    pub(crate) fn wants(&mut self, worker: usize, waiter: &Waiter<'_>, at: &mut Moment<'_>) {
        let key = PublicKey(*waiter.peer.key());
        let packet = Packet { vnet: waiter.vnet, bytes: waiter.packet.into() };
        let placed = self.node.wants(&key, packet.bytes.len(), at);
        match (placed, self.peers.get_mut(&key)) {
            (Wait::Held { dropped }, Some(peer)) => {
                let oldest = peer.held.drain(..dropped.min(peer.held.len())).count();
                peer.held.push_back((worker, packet));
                if oldest > 0 {
                    waiter.peer.is_full_until(at.now_ns + FULL_NS);
                }
                self.count(DropReason::NoKeys, oldest);
            }
            (Wait::Go, Some(peer)) if peer.sealing.is_some() => {
                self.exits.hand_back(Fate::Goes, [(worker, packet)].into_iter());
            }
            // Nobody is to be asked for keys, or there is no place to send to: the packet would come
            // back for ever.
            _ => {
                waiter.peer.is_full_until(at.now_ns + FULL_NS);
                self.exits.hand_back(Fate::IsDropped, [(worker, packet)].into_iter());
            }
        }
        self.act(at.now_ns);
    }

    /// Looks what was sealed and opened since the last time.
    pub(crate) fn look(&mut self, at: &mut Moment<'_>) {
        let mut seen = Vec::new();
        for (id, pair) in &self.pairs {
            let (heard, sent) = (pair.opening.take_heard(), pair.sealing.take_sent());
            let is_exhausting = sent && pair.sealing.wants_rekey();
            if heard != Heard::Nothing || sent {
                seen.push((*id, heard, sent, is_exhausting));
            }
        }
        for (id, heard, sent, is_exhausting) in seen {
            // What was heard comes second: it may be the answer, which ends the wait for one.
            if sent {
                self.node.sent(id, at);
            }
            if heard != Heard::Nothing {
                self.node.heard(id, heard == Heard::Data, at);
            }
            if is_exhausting {
                self.node.exhausting(id, at);
            }
        }
        self.act(at.now_ns);
    }

    /// Returns whether there is anything to look at.
    pub(crate) fn has_sets(&self) -> bool {
        !self.pairs.is_empty()
    }

    // What follows.

    fn act(&mut self, now_ns: u64) {
        while let Some(output) = self.node.next_output() {
            match output {
                Output::Send { to, message } => self.send(to, &message),
                Output::Install(set) => self.install(&set, now_ns),
                Output::Confirmed { peer, set, sealing, claim, instance, .. } => {
                    self.confirmed(
                        peer,
                        (set, sealing),
                        Proved { at_ns: now_ns, claim: claim_of(&claim), instance },
                    );
                }
                Output::End { peer, set, .. } => self.end_set(&peer, set),
                Output::Release { peer, .. } => self.release(&peer, Fate::Goes),
                Output::GaveUp { peer, packets } => self.gave_up(peer, packets),
                Output::Dummy { peer, set } => self.dummy(&peer, set, now_ns),
            }
        }
    }

    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        if let Err(errno) = self.exits.send(to, datagram) {
            self.blame(to, format!("cannot send to {to}: {errno}"));
        }
    }

    fn install(&mut self, set: &SaSet, agreed_ns: u64) {
        // Either was made, or checked, by the handshake.
        let bases = SpiBase::new(set.id.0).zip(SpiBase::new(set.send_spi_base));
        let (Some((own, theirs)), Some(peer)) = (bases, self.peers.get(&set.peer)) else { return };
        let (provider, cipher, claim) = (self.provider, set.cipher, claim_of(&set.claim));
        let direction = |base, lanes, secret: &[u8; Secret::LEN]| Direction {
            secret: Secret::new(secret),
            provider,
            cipher,
            base,
            lanes,
            agreed_ns,
        };
        let opens = direction(own, set.receive_lanes, &set.receive_key);
        let seals = direction(theirs, set.send_lanes, &set.send_key);
        let opening = OpeningSet::new(Arc::clone(&peer.protected), claim, opens);
        let pair = Pair {
            peer: set.peer,
            opening: self.sad.install(opening),
            sealing: Arc::new(SealingSet::new(own, claim, seals)),
            cipher,
            agreed_ns,
        };
        self.pairs.insert(set.id, pair);
    }

    fn confirmed(&mut self, key: PublicKey, (set, sealing): (SetId, SetId), proved: Proved) {
        if let Some(pair) = self.pairs.get(&set) {
            pair.opening.confirm();
        }
        // What one says that a later one has overtaken is old.
        if set == sealing {
            if let Some(peer) = self.peers.get_mut(&key) {
                (peer.proved, peer.last_error) = (Some(proved), None);
            }
            if let Some(endpoint) = self.node.endpoint(&key) {
                let Proved { claim, instance, .. } = proved;
                self.events.push(Event::KeysConfirmed { key, claim, endpoint, instance });
            }
        }
        self.follow(&key);
    }

    fn end_set(&mut self, peer: &PublicKey, set: SetId) {
        if let Some(id) = SpiBase::new(set.0) {
            self.sad.remove(id);
        }
        // Before the last hand lets go of the keys, nobody may seal by them.
        self.follow(peer);
        self.pairs.remove(&set);
    }

    /// Has a peer's packets sealed by the set, and sent to the place, that the node says.
    fn follow(&mut self, key: &PublicKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let wanted = self.node.sealing(key).zip(self.node.endpoint(key));
        if peer.sealing == wanted {
            return;
        }
        let had = std::mem::replace(&mut peer.sealing, wanted);
        match wanted.and_then(|(set, endpoint)| Some((self.pairs.get(&set)?, endpoint))) {
            Some((pair, endpoint)) => peer.protected.seal_by(&pair.sealing, endpoint),
            None => {
                peer.protected.seal_by_none();
                if had.is_some() {
                    self.events.push(Event::KeysLost { key: *key });
                }
            }
        }
    }

    /// Lets the packets go that wait for a peer.
    fn release(&mut self, key: &PublicKey, fate: Fate) {
        if let Some(peer) = self.peers.get_mut(key) {
            self.exits.hand_back(fate, peer.held.drain(..));
        }
    }

    fn gave_up(&mut self, key: PublicKey, packets: usize) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.last_error = Some(match self.node.endpoint(&key) {
                Some(endpoint) => format!("no answer to the handshake from {endpoint}"),
                None => "no address to shake hands with".to_owned(),
            });
            self.events.push(Event::HandshakeGivenUp { key, packets });
        }
        self.release(&key, Fate::IsDropped);
    }

    fn dummy(&mut self, key: &PublicKey, set: SetId, now_ns: u64) {
        let place = self.pairs.get(&set).zip(self.node.endpoint(key));
        let Some((pair, endpoint)) = place else { return };
        let mut slot = [0; SealingSet::DUMMY_ROOM];
        match pair.sealing.seal_dummy(now_ns, &mut slot) {
            Ok(len) => self.send(endpoint, &slot[..len]),
            Err(reason) => self.count(reason, 1),
        }
    }

    fn count(&self, reason: DropReason, packets: usize) {
        self.counters.drops(reason).add(packets as u64);
    }

    /// Notes what went wrong with whoever is tried at that address.
    fn blame(&mut self, address: SocketAddr, what: String) {
        let Self { node, peers, .. } = self;
        let is_there = |key: &PublicKey| {
            node.endpoint(key).is_some_and(|endpoint| endpoint.ip() == address.ip())
        };
        let found = peers.iter_mut().filter(|(key, _)| is_there(key));
        found.for_each(|(_, peer)| peer.last_error = Some(what.clone()));
    }
}

/// Returns a claim as the data path has it. What is no subnet claims nothing.
fn claim_of(claim: &payload::Claim) -> Claim {
    Claim {
        ipv4: claim.v4.and_then(|(address, length)| Prefix::new(address, length).ok()),
        ipv6: claim.v6.and_then(|(address, length)| Prefix::new(address, length).ok()),
    }
}

pub(super) const fn reason_of(refusal: Refusal) -> DropReason {
    match refusal {
        Refusal::Header => DropReason::HandshakeHeader,
        Refusal::Length => DropReason::HandshakeLength,
        Refusal::Mac1 => DropReason::HandshakeMac1,
        Refusal::Cookie => DropReason::HandshakeCookie,
        Refusal::Rate => DropReason::HandshakeRate,
        Refusal::Noise => DropReason::HandshakeNoise,
        Refusal::Payload => DropReason::HandshakePayload,
        Refusal::UnknownIdentity => DropReason::HandshakeUnknownIdentity,
        Refusal::Psk => DropReason::PskUnknown,
        Refusal::Cipher => DropReason::HandshakeCipher,
        Refusal::Old => DropReason::HandshakeOld,
        Refusal::Replayed => DropReason::HandshakeReplayed,
        Refusal::TooSoon => DropReason::HandshakeTooSoon,
        Refusal::UnknownIndex => DropReason::HandshakeUnknownIndex,
    }
}

/// Returns whether a refusal tells an operator something about the peer. What costs no cryptography
/// anybody can send, and as often as he likes.
const fn is_telling(refusal: Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Noise
            | Refusal::Payload
            | Refusal::UnknownIdentity
            | Refusal::Psk
            | Refusal::Cipher
            | Refusal::Old
    )
}
