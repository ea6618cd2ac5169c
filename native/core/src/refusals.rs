//! Peers whose path refused something, and when it is tried there again.
//!
//! Path of a packet: `batch` → **`refusals`** (whether a train may go whole) → `io::transmit`.
//! A refusal belongs to the path it came from: the device there, or IPsec on it, cannot. It may be
//! about a moment only, so that it is tried again, after seconds first, then minutes.

use std::collections::HashMap;
use std::net::SocketAddr;

/// How long what was refused is not tried again, at first.
pub const FIRST_PAUSE_NS: u64 = 2_000_000_000;
/// The same at last.
pub const LAST_PAUSE_NS: u64 = 300_000_000_000;

/// Most peers whose refusals are remembered. Others are tried each time: that costs a call more.
const MAX_PEERS: usize = 256;

/// Returns how long to wait after another refusal, of what was waited for that long before.
pub fn next_pause_ns(pause_ns: u64) -> u64 {
    if pause_ns == 0 { FIRST_PAUSE_NS } else { (pause_ns * 4).min(LAST_PAUSE_NS) }
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    pause_ns: u64,
    again_ns: u64,
    /// It was taken since. How long it had paused is remembered a while, for a path that refuses
    /// now and then.
    is_over: bool,
}

/// The refusals of one worker's paths.
#[derive(Debug)]
pub struct Refusals {
    paths: HashMap<SocketAddr, Refusal>,
    /// How often an operator had switched when this was last asked.
    switches: u32,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { paths: HashMap::with_capacity(MAX_PEERS), switches: 0 }
    }
}

impl Refusals {
    /// Returns how many paths refuse something.
    pub fn count(&self) -> usize {
        self.paths.values().filter(|refusal| !refusal.is_over).count()
    }

    /// Returns whether nothing is known of any path.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns whether the path to `peer` is to be spared at `now_ns`.
    pub fn holds(&self, peer: &SocketAddr, now_ns: u64) -> bool {
        !self.paths.is_empty()
            && self
                .paths
                .get(peer)
                .is_some_and(|refusal| !refusal.is_over && now_ns < refusal.again_ns)
    }

    /// Notes that the path to `peer` refuses.
    pub fn refused(&mut self, peer: SocketAddr, now_ns: u64) {
        if self.paths.len() >= MAX_PEERS && !self.paths.contains_key(&peer) {
            self.paths.retain(|_, refusal| !refusal.is_over && now_ns < refusal.again_ns);
            if self.paths.len() >= MAX_PEERS {
                return;
            }
        }
        let pause_ns = next_pause_ns(self.paths.get(&peer).map_or(0, |refusal| refusal.pause_ns));
        self.paths.insert(peer, Refusal { pause_ns, again_ns: now_ns + pause_ns, is_over: false });
    }

    /// Notes that the path to `peer` takes what it refused before.
    pub fn accepted(&mut self, peer: &SocketAddr) {
        if let Some(refusal) = self.paths.get_mut(peer) {
            refusal.is_over = true;
        }
    }

    /// Forgets the paths that nothing was sent by for long, or all of them where an operator has
    /// switched since, for the `switches`-th time.
    pub fn review(&mut self, switches: u32, now_ns: u64) {
        if self.switches != switches {
            self.switches = switches;
            self.paths.clear();
        }
        self.paths.retain(|_, refusal| now_ns < refusal.again_ns + LAST_PAUSE_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn peer(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    #[test]
    fn a_refusal_is_that_paths_alone_and_is_tried_again_after_seconds_then_minutes() {
        let mut refusals = Refusals::default();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..6 {
            refusals.refused(peer(1), now);
            assert!(refusals.holds(&peer(1), now) && !refusals.holds(&peer(2), now));
            let again = (0..).find(|s| !refusals.holds(&peer(1), now + s * SECOND)).unwrap();
            pauses.push(again);
            now += again * SECOND;
        }
        assert_eq!(pauses, [2, 8, 32, 128, 300, 300]);
        refusals.accepted(&peer(1));
        assert!(refusals.count() == 0 && !refusals.holds(&peer(1), now));
        // One that refuses now and then is not tried more often for that.
        refusals.refused(peer(1), now);
        assert!(refusals.holds(&peer(1), now + 299 * SECOND));
        refusals.accepted(&peer(1));
        refusals.review(0, now + 600 * SECOND);
        refusals.refused(peer(1), now);
        assert!(!refusals.holds(&peer(1), now + 2 * SECOND));
    }

    #[test]
    fn an_operators_switch_and_a_long_silence_end_refusals() {
        let mut refusals = Refusals::default();
        refusals.refused(peer(1), 0);
        refusals.review(0, 301 * SECOND);
        assert!(!refusals.is_empty());
        refusals.review(0, 302 * SECOND);
        assert!(refusals.is_empty());
        refusals.refused(peer(1), 0);
        refusals.review(1, 0);
        assert!(refusals.is_empty());
        refusals.refused(peer(1), 0);
        refusals.review(1, 0);
        assert!(refusals.holds(&peer(1), 0));
    }

    #[test]
    fn however_many_paths_refuse_the_memory_is_bounded() {
        let mut refusals = Refusals::default();
        let room = refusals.paths.capacity();
        for number in 0..10_000 {
            refusals.refused(peer(number), 0);
        }
        assert_eq!((refusals.paths.len(), refusals.paths.capacity()), (MAX_PEERS, room));
        // Those whose pause is over make room.
        refusals.refused(peer(10_000), 3 * SECOND);
        assert!(refusals.holds(&peer(10_000), 3 * SECOND));
    }
}
