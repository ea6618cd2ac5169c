//! Sidings: sockets of their own for peers whose way takes less than they are sent.
//!
//! Path of a packet: `batch` → **`sidings`** (which of the sockets) → `io::transmit` → underlay.
//! What waits in the kernel for one peer, in a device's queue or for a neighbour's answer, is
//! counted against the socket it was sent by, and all peers share that one while it has room. A
//! peer that meets it full is set aside: it gets a siding, a socket that only the peers in it use.
//! There its queue is held to what its way moves in [`QUEUE_NS`], and what is beyond is dropped.
//! Whoever is innocent finds its siding empty and goes on; whoever is not holds up nobody else.
//! Where more peers are stuck than there are sidings, those share that are not heard from. Of what
//! they are sent a little still goes by the trickle: what goes through it at once lives.

use std::collections::HashMap;
use std::net::SocketAddr;

/// How long a way's queue may be, in time.
const QUEUE_NS: u64 = 100_000_000;

/// How long a way is watched before its queue is measured by what it moves.
const WINDOW_NS: u64 = 50_000_000;

/// Least room of a siding, in bytes as the kernel counts them: the largest train, and one behind.
pub const MIN_LIMIT: usize = 144 * 1024;

/// Room of a siding whose peer has not been slow yet.
pub const FIRST_LIMIT: usize = 512 * 1024;

/// Most room of a siding.
pub const MAX_LIMIT: usize = 8 * 1024 * 1024;

/// How long a siding that was full is not looked at: asking costs more than dropping.
const STILL_FULL_NS: u64 = 300_000;

/// How long a siding must have refused nothing before it may be given to another peer.
const SETTLED_NS: u64 = 1_000_000_000;

/// What a peer that shares a full siding may still be sent, in bytes: at once, and each second.
const TRICKLE: u64 = 12 * 1024;
const TRICKLE_PER_S: u64 = 4 * 1024;

/// How long a train by the trickle is watched.
const WATCH_NS: u64 = 5_000_000;

/// How often all sidings are looked at, at most, for peers not known to live.
const LOOK_NS: u64 = 1_000_000;

/// The trickle, one for peers that are heard from, and some for the others.
const MIN_SIDINGS: usize = 4;

/// The siding that nobody has for itself.
pub const TRICKLE_SIDING: usize = 0;

/// Most peers that are set aside at once.
const MAX_HOMES: usize = 1_024;

/// What the kernel adds to a datagram, or to a train, in its own account.
const COST: usize = 768;

/// Returns what a train of `len` bytes costs in the kernel's account, about.
pub const fn cost(len: usize) -> usize {
    len + COST
}

/// Where a peer is.
#[derive(Debug, Clone, Copy)]
struct Home {
    siding: usize,
    /// When what it may be sent by the trickle was used up; before, were there more time.
    spent_ns: i128,
}

/// One siding.
#[derive(Debug, Clone, Copy)]
struct Siding {
    peers: usize,
    limit: usize,
    /// Bytes in it after the last send.
    held: usize,
    /// Bytes that left it since the window began.
    drained: usize,
    window_ns: u64,
    /// Whether it was seen empty in this window.
    was_empty: bool,
    /// When it last refused something.
    full_ns: Option<u64>,
}

impl Siding {
    const FREE: Self = Self {
        peers: 0,
        limit: FIRST_LIMIT,
        held: 0,
        drained: 0,
        window_ns: 0,
        was_empty: true,
        full_ns: None,
    };

    /// Takes note of what is in it.
    fn observe(&mut self, held: usize, now_ns: u64) {
        self.drained += self.held.saturating_sub(held);
        self.held = held;
        self.was_empty |= held == 0;
        let passed_ns = now_ns.saturating_sub(self.window_ns);
        if passed_ns >= WINDOW_NS {
            let moved = self.drained as u64 * QUEUE_NS / passed_ns;
            let least = if self.was_empty { FIRST_LIMIT } else { MIN_LIMIT };
            self.limit = (moved as usize).clamp(least, MAX_LIMIT);
            (self.drained, self.window_ns, self.was_empty) = (0, now_ns, held == 0);
        }
    }

    fn is_settled(&self, now_ns: u64) -> bool {
        self.full_ns.is_none_or(|full_ns| now_ns.saturating_sub(full_ns) >= SETTLED_NS)
    }
}

/// The sidings of a worker, in one family of the underlay.
#[derive(Debug)]
pub struct Sidings {
    sidings: Box<[Siding]>,
    homes: HashMap<SocketAddr, Home>,
    /// The first one is the trickle, those behind it are for peers that are known to live.
    reserved: usize,
    looked_ns: Option<u64>,
    /// What went by the trickle last, and what is watched.
    last: Option<Trickled>,
    watched: Option<Trickled>,
}

/// A train that went by the trickle.
#[derive(Debug, Clone, Copy)]
struct Trickled {
    peer: SocketAddr,
    /// Bytes that were in there before.
    before: usize,
    sent_ns: u64,
}

impl Sidings {
    /// Returns that many, all free; fewer than four are none.
    pub fn new(count: usize) -> Self {
        let count = if count < MIN_SIDINGS { 0 } else { count };
        Self {
            sidings: vec![Siding::FREE; count].into(),
            homes: HashMap::with_capacity(if count == 0 { 0 } else { MAX_HOMES }),
            reserved: 1 + (count / 8).max(1),
            looked_ns: None,
            last: None,
            watched: None,
        }
    }

    /// Returns whether there is any.
    pub const fn is_empty(&self) -> bool {
        self.sidings.is_empty()
    }

    /// Returns the siding of a peer that is set aside.
    pub fn home(&self, peer: &SocketAddr) -> Option<usize> {
        if self.homes.is_empty() {
            return None;
        }
        self.homes.get(peer).map(|home| home.siding)
    }

    /// Sets a peer aside that met the common socket full, or the siding that it shares.
    ///
    /// `is_alive`: whether it sent something lately, or what it is sent goes through. `held` tells how many bytes are in a siding.
    /// Returns its siding; `None` where there is none for it, now.
    pub fn set_aside(
        &mut self,
        peer: SocketAddr,
        is_alive: bool,
        now_ns: u64,
        held: &dyn Fn(usize) -> usize,
    ) -> Option<usize> {
        if self.homes.len() >= MAX_HOMES && !self.homes.contains_key(&peer) {
            self.forget_settled(now_ns, held);
            if self.homes.len() >= MAX_HOMES {
                return None;
            }
        }
        let siding = self.choose(is_alive, now_ns, held)?;
        let before = self.homes.remove(&peer);
        if let Some(home) = before {
            self.sidings[home.siding].peers -= 1;
        }
        let place = &mut self.sidings[siding];
        if place.peers == 0 {
            *place = Siding { window_ns: now_ns, held: held(siding), ..Siding::FREE };
        }
        place.peers += 1;
        let spent_ns = before.map_or(i128::MIN, |home| home.spent_ns);
        self.homes.insert(peer, Home { siding, spent_ns });
        Some(siding)
    }

    /// Lets go of all peers whose sidings refuse nothing any more: they live again, or nobody sends to
    /// them since they are peers no longer.
    #[cold]
    fn forget_settled(&mut self, now_ns: u64, held: &dyn Fn(usize) -> usize) {
        if self.looked_ns.is_some_and(|looked_ns| now_ns.saturating_sub(looked_ns) < LOOK_NS) {
            return;
        }
        self.looked_ns = Some(now_ns);
        for (number, siding) in self.sidings.iter_mut().enumerate() {
            if siding.peers > 0 && siding.is_settled(now_ns) && held(number) == 0 {
                *siding = Siding::FREE;
            }
        }
        let sidings = &self.sidings;
        self.homes.retain(|_, home| sidings[home.siding].peers > 0);
    }

    /// Returns the best siding for a peer: a free one, one whose peers need it no longer, or the
    /// emptiest.
    fn choose(
        &mut self,
        is_alive: bool,
        now_ns: u64,
        held: &dyn Fn(usize) -> usize,
    ) -> Option<usize> {
        let allowed = if is_alive { 1 } else { self.reserved }..self.sidings.len();
        let is_free = |number: &usize| self.sidings[*number].peers == 0 && held(*number) == 0;
        if let Some(free) = allowed.clone().rev().find(is_free) {
            return Some(free);
        }
        if !is_alive {
            let is_soon =
                self.looked_ns.is_some_and(|looked_ns| now_ns.saturating_sub(looked_ns) < LOOK_NS);
            if is_soon {
                // Any of those that are full anyway.
                let fewest = allowed.min_by_key(|number| {
                    (self.sidings[*number].is_settled(now_ns), self.sidings[*number].peers)
                });
                return fewest;
            }
            self.looked_ns = Some(now_ns);
        }
        let done = |number: &usize| self.sidings[*number].is_settled(now_ns) && held(*number) == 0;
        if let Some(done) = allowed.clone().find(done) {
            self.homes.retain(|_, home| home.siding != done);
            self.sidings[done] = Siding::FREE;
            return Some(done);
        }
        let emptiest = allowed.map(|number| (held(number), number)).min();
        emptiest.map(|(_, number)| number)
    }

    /// Returns how many of some trains, each with its cost, a siding takes; `held` tells how many bytes
    /// are in it. Where it is empty, it takes one of any size.
    pub fn admit(
        &mut self,
        siding: usize,
        costs: impl Iterator<Item = usize>,
        held: impl FnOnce() -> usize,
        now_ns: u64,
    ) -> usize {
        let place = &mut self.sidings[siding];
        if place.full_ns.is_some_and(|full_ns| now_ns < full_ns + STILL_FULL_NS) {
            return 0;
        }
        let held = held();
        place.observe(held, now_ns);
        let limit = if siding == TRICKLE_SIDING { MAX_LIMIT } else { place.limit };
        let (mut sum, mut count) = (held, 0);
        for cost in costs {
            if sum > 0 && sum + cost > limit {
                break;
            }
            sum += cost;
            count += 1;
        }
        if count == 0 {
            place.full_ns = Some(now_ns);
        }
        count
    }

    /// Takes note of how many bytes are in a siding after a send.
    pub fn sent(&mut self, siding: usize, held: usize) {
        self.sidings[siding].held = held;
    }

    /// Returns whether a peer shares its siding, so that others may have filled it.
    pub fn is_sharing(&self, peer: &SocketAddr) -> bool {
        self.home(peer).is_some_and(|siding| self.sidings[siding].peers > 1)
    }

    /// Returns whether a train that costs `cost` may go by the trickle, in which are as many bytes as
    /// `held` tells, to a peer that met the siding full that it shares; takes it as sent.
    pub fn trickles(
        &mut self,
        peer: &SocketAddr,
        cost: usize,
        held: impl FnOnce() -> usize,
        now_ns: u64,
    ) -> bool {
        let Some(home) = self.homes.get_mut(peer) else { return false };
        let ns_of = |bytes: u64| i128::from(bytes * 1_000_000_000 / TRICKLE_PER_S);
        let spent_ns = home.spent_ns.max(i128::from(now_ns) - ns_of(TRICKLE));
        if spent_ns >= i128::from(now_ns) {
            return false;
        }
        home.spent_ns = spent_ns + ns_of(cost as u64);
        let trickled = Trickled { peer: *peer, before: held(), sent_ns: now_ns };
        self.last = Some(trickled);
        if self.watched.is_none_or(|watched| now_ns >= watched.sent_ns + WATCH_NS) {
            self.watched = Some(trickled);
        }
        true
    }

    /// Returns whether what that peer was sent by the trickle has left it, where `held` tells how
    /// many bytes are still in there: then its way takes what it is sent. Of the last train that
    /// shows at once where the device takes it at once; one is watched for longer.
    pub fn is_through(&self, peer: &SocketAddr, held: impl FnOnce() -> usize) -> bool {
        let trickled = [self.last, self.watched].into_iter().flatten();
        let before = trickled.filter(|one| one.peer == *peer).map(|one| one.before).max();
        before.is_some_and(|before| held() <= before)
    }
}

#[cfg(test)]
mod tests;
