//! The state machine: when to shake hands with whom, and which SAs a peer has.
//!
//! Path of a message: `io` → **[`Node::message`]** → [`Output::Send`] → `io`. What data threads
//! saw comes in ([`Node::wants`], [`Node::sent`], [`Node::heard`], [`Node::unknown_spi`]), time
//! by [`Node::tick`]; what is to be done is drained from [`Node::outputs`].
//!
//! Who is trusted is the caller's decision: peers are those it put, and no others are answered.
//! The state of one peer is in `peer`, the two sides of a handshake in `initiate` and `respond`.

mod initiate;
mod output;
mod peer;
mod respond;
mod shared;
mod timers;
mod waiting;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use crate::Random;
use crate::cipher::Ciphers;
use crate::kdf::is_equal;
use crate::key::{Identity, PublicKey};
use crate::message::{self, Cookie, Message, MessageError, Response};
use crate::noise::{self, Suite};
use crate::payload::{Claim, Timestamp};
use crate::psk::Psks;

pub use output::{Output, Refusal, SaSet, SetId, Wait};
use peer::Peer;
use shared::Shared;
pub use timers::*;
pub use waiting::{MOST_BYTES, MOST_BYTES_IN_ALL, MOST_PACKETS};

/// The clocks and the random bytes that an input is handled with.
pub struct Moment<'a> {
    /// CLOCK_BOOTTIME.
    pub now_ns: u64,
    /// The time of day, for the timestamps of initiations alone.
    pub wall: Timestamp,
    /// Bytes that nobody can predict.
    pub random: &'a mut dyn Random,
}

/// What a node is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its key.
    pub identity: Identity,
    /// The PSKs, none if trust needs none.
    pub psks: Psks,
    /// The name of the network: nodes of two networks share no keys.
    pub network: String,
    /// The ciphers it takes.
    pub ciphers: Ciphers,
    /// Random, one for each start of the process.
    pub instance: [u8; 8],
    /// How many lanes it seals with, 1 to 64.
    pub lanes: u8,
    /// The subnets it holds.
    pub claim: Claim,
    /// A dummy every so long, for hosts behind NAT.
    pub keepalive_ns: Option<u64>,
}

/// What the store says about a peer. It says where to try, and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Where it listens.
    pub endpoint: Option<SocketAddr>,
    /// The instance it published.
    pub instance: Option<[u8; 8]>,
}

/// A node and its peers.
#[derive(Debug)]
pub struct Node {
    shared: Shared,
    peers: BTreeMap<PublicKey, Peer>,
    /// Peers by the address they are tried at, for unknown SPIs.
    addresses: BTreeMap<IpAddr, BTreeSet<PublicKey>>,
}

impl Node {
    /// Makes a node without peers.
    pub fn new(settings: Settings) -> Self {
        Self::with_suite(settings, noise::suite)
    }

    pub(crate) fn with_suite(settings: Settings, suite: Suite) -> Self {
        let shared = Shared::new(settings, suite);
        Self { shared, peers: BTreeMap::new(), addresses: BTreeMap::new() }
    }

    /// Returns the next thing to do, oldest first.
    pub fn next_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// Returns when [`Node::tick`] has something to do, in time of CLOCK_BOOTTIME.
    pub fn next_deadline(&self) -> Option<u64> {
        self.shared.deadlines.first().map(|(at_ns, _)| *at_ns)
    }

    /// Returns the set that a peer's packets are sealed under.
    pub fn sealing(&self, peer: &PublicKey) -> Option<SetId> {
        self.peers.get(peer)?.sealing()
    }

    /// Returns where a peer is tried, and its data sent.
    pub fn endpoint(&self, peer: &PublicKey) -> Option<SocketAddr> {
        self.peers.get(peer)?.endpoint()
    }

    /// Returns whether a handshake with a peer is under way from here.
    pub fn is_shaking_hands(&self, peer: &PublicKey) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.pending.is_some())
    }

    /// Works on one peer, then notes its next deadline and address.
    fn on<T>(
        &mut self,
        key: &PublicKey,
        work: impl FnOnce(&mut Peer, &mut Shared) -> T,
    ) -> Option<T> {
        let peer = self.peers.get_mut(key)?;
        let before = peer.endpoint();
        let done = work(peer, &mut self.shared);
        self.shared.schedule(peer);
        let after = peer.endpoint();
        if before != after {
            self.move_address(key, before, after);
        }
        Some(done)
    }

    fn move_address(&mut self, key: &PublicKey, from: Option<SocketAddr>, to: Option<SocketAddr>) {
        if let Some(keys) = from.and_then(|from| self.addresses.get_mut(&from.ip())) {
            keys.remove(key);
            if keys.is_empty() {
                self.addresses.retain(|_, keys| !keys.is_empty());
            }
        }
        if let Some(to) = to {
            self.addresses.entry(to.ip()).or_default().insert(*key);
        }
    }

    /// Trusts a peer, or notes what its record says now. A new instance is a restart: the keys it
    /// had are gone, so new ones are made if there were any lately.
    pub fn put_peer(&mut self, key: PublicKey, record: Record, at: &mut Moment<'_>) {
        if key == self.shared.settings.identity.public() {
            return;
        }
        self.peers.entry(key).or_insert_with(|| Peer::new(key));
        self.on(&key, |peer, shared| peer.set_record(record, shared, at));
    }

    /// Trusts a peer no longer: its SAs end at once.
    pub fn remove_peer(&mut self, key: &PublicKey, at: &mut Moment<'_>) {
        self.on(key, |peer, shared| peer.leave(shared, at));
        if let Some(peer) = self.peers.remove(key) {
            self.shared.unschedule(&peer);
            self.move_address(key, peer.endpoint(), None);
        }
    }

    /// Changes what the next handshakes say, and makes them with all peers that have SAs.
    pub fn set_claim(&mut self, claim: Claim, at: &mut Moment<'_>) {
        self.shared.settings.claim = claim;
        self.renew(at);
    }

    /// Changes the PSKs; SAs made by others end when their time is over.
    pub fn set_psks(&mut self, psks: Psks, at: &mut Moment<'_>) {
        self.shared.settings.psks = psks;
        self.renew(at);
    }

    /// Changes the ciphers taken.
    pub fn set_ciphers(&mut self, ciphers: Ciphers, at: &mut Moment<'_>) {
        self.shared.settings.ciphers = ciphers;
        self.renew(at);
    }

    /// Makes new SAs with all peers that have some, spread over 2 s: own endpoint or policy
    /// changed.
    pub fn renew(&mut self, at: &mut Moment<'_>) {
        for key in self.keys() {
            self.on(&key, |peer, _| peer.renew_soon(at));
        }
    }

    /// Ends all SAs and makes new ones: memory may have been copied. Handshakes under way begin
    /// anew, too: one answer would give both copies the same keys.
    pub fn forget_keys(&mut self, at: &mut Moment<'_>) {
        for key in self.keys() {
            self.on(&key, |peer, shared| {
                peer.renew_soon(at);
                peer.end_all(shared, at.now_ns);
                if peer.drop_pending(shared, at.now_ns).is_some() {
                    peer.initiate(shared, at);
                }
            });
        }
    }

    fn keys(&self) -> Vec<PublicKey> {
        self.peers.keys().copied().collect()
    }

    /// Shakes hands with a peer whether or not there is a packet for it: after a restart.
    pub fn connect(&mut self, peer: &PublicKey, at: &mut Moment<'_>) {
        self.on(peer, |peer, shared| peer.initiate(shared, at));
    }

    /// A packet of so many bytes has no SA to be sealed under. It waits, or does not.
    pub fn wants(&mut self, peer: &PublicKey, bytes: usize, at: &mut Moment<'_>) -> Wait {
        let placed = self.on(peer, |peer, shared| peer.wants(bytes, shared, at));
        placed.unwrap_or(Wait::Refused)
    }

    /// Packets with data were sealed under a set.
    pub fn sent(&mut self, set: SetId, at: &mut Moment<'_>) {
        if let Some(key) = self.shared.sets.get(&set).copied() {
            self.on(&key, |peer, shared| peer.sent(set, shared, at));
        }
    }

    /// Authentic packets came under a set; `data` if not all of them were dummies.
    pub fn heard(&mut self, set: SetId, data: bool, at: &mut Moment<'_>) {
        if let Some(key) = self.shared.sets.get(&set).copied() {
            self.on(&key, |peer, shared| peer.heard(set, data, shared, at));
        }
    }

    /// A set has sealed half of what it may.
    pub fn exhausting(&mut self, set: SetId, at: &mut Moment<'_>) {
        if let Some(key) = self.shared.sets.get(&set).copied() {
            self.on(&key, |peer, shared| {
                if peer.sealing() == Some(set) {
                    peer.initiate(shared, at);
                }
            });
        }
    }

    /// ESP with an SPI that nobody here has came from an address: its sender may not know that
    /// this node has restarted.
    pub fn unknown_spi(&mut self, from: SocketAddr, at: &mut Moment<'_>) {
        let Some(keys) = self.addresses.get(&from.ip()) else { return };
        let is_there = |key: &&PublicKey| self.endpoint(key) == Some(from);
        // Lanes but the first leave by ports of their own, so the address alone has to do.
        let found = keys.iter().find(is_there).or(keys.first().filter(|_| keys.len() == 1));
        if let Some(key) = found.copied() {
            self.on(&key, |peer, shared| peer.provoke(shared, at));
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, at: &mut Moment<'_>) {
        while let Some((due_ns, key)) = self.shared.deadlines.first().copied() {
            if due_ns > at.now_ns {
                break;
            }
            self.on(&key, |peer, shared| peer.tick(shared, at));
        }
    }

    /// A handshake message came, with `queued` more behind it in a queue of 64.
    ///
    /// # Errors
    ///
    /// Why it changed nothing; each has its own counter.
    pub fn message(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        queued: usize,
        at: &mut Moment<'_>,
    ) -> Result<(), Refusal> {
        let message = message::parse(bytes).map_err(|error| match error {
            MessageError::Header => Refusal::Header,
            MessageError::Length => Refusal::Length,
        })?;
        match message {
            Message::Initiation(initiation) => {
                let asked = respond::read(&mut self.shared, &initiation, from, queued, at)?;
                let key = asked.key();
                let answered =
                    self.on(&key, |peer, shared| respond::answer(peer, shared, asked, from, at));
                answered.unwrap_or(Err(Refusal::UnknownIdentity))
            }
            Message::Response(response) => self.response(&response, from, at),
            Message::Cookie(cookie) => self.cookie(&cookie),
        }
    }

    fn response(
        &mut self,
        response: &Response<'_>,
        from: SocketAddr,
        at: &mut Moment<'_>,
    ) -> Result<(), Refusal> {
        if !is_equal(&self.shared.mac1.of(&[response.before_mac1()]), &response.mac1()) {
            return Err(Refusal::Mac1);
        }
        let key = self.shared.pending.get(&response.receiver()).copied();
        let key = key.ok_or(Refusal::UnknownIndex)?;
        let read = self.on(&key, |peer, shared| peer.finish(response, from, shared, at));
        read.unwrap_or(Err(Refusal::UnknownIndex))
    }

    fn cookie(&mut self, cookie: &Cookie) -> Result<(), Refusal> {
        let key = self.shared.pending.get(&cookie.receiver).copied();
        let key = key.ok_or(Refusal::UnknownIndex)?;
        let taken = self.on(&key, |peer, shared| peer.take_cookie(cookie, shared));
        taken.unwrap_or(Err(Refusal::UnknownIndex))
    }
}

/// Returns 32 random bytes for an ephemeral key.
fn ephemeral(random: &mut dyn Random) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(&mut *bytes);
    bytes
}
