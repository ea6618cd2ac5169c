//! What the kernel said of the paths' MTUs a moment ago, and when that was last reported.
//!
//! Path of a packet: `outbound` → `io`, refused there for its size → **`path_mtu`** → `replies`.
//! A path that refuses one datagram refuses thousands: the kernel is asked ten times a second for
//! each peer at most, and the control plane told once, until something changes.
//!
//! Has room for a fixed number of peers; two that share a place only ask and report more often.

use std::net::{IpAddr, SocketAddr};

/// Smallest MTU of a path that is believed without a probe, in bytes: what every link of IPv6 has,
/// and near every one of IPv4 (RFC 8899 §4.6.2; RFC 8200 §5).
pub const LEAST_BELIEVED: u32 = 1_280;

/// Peers remembered at once.
const SLOTS: usize = 64;

/// How long an answer of the kernel is taken for the next datagram too.
const FRESH_NS: u64 = 100_000_000;

/// How often the same answer is reported.
const REPORT_NS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Known {
    endpoint: SocketAddr,
    path_mtu_bytes: Option<u32>,
    asked_ns: u64,
    reported_ns: u64,
}

/// The kernel's answers, by peer.
#[derive(Debug)]
pub struct PathMtus([Option<Known>; SLOTS]);

impl Default for PathMtus {
    fn default() -> Self {
        Self([None; SLOTS])
    }
}

impl PathMtus {
    /// Returns what the kernel said last, if that is recent; inside, `None` if it would not say.
    pub fn recent(&self, endpoint: &SocketAddr, now_ns: u64) -> Option<Option<u32>> {
        self.0[slot(endpoint)]
            .filter(|known| known.endpoint == *endpoint)
            .filter(|known| now_ns.saturating_sub(known.asked_ns) < FRESH_NS)
            .map(|known| known.path_mtu_bytes)
    }

    /// Takes over what the kernel said just now. Returns whether that is to be reported.
    pub fn learn(
        &mut self,
        endpoint: SocketAddr,
        path_mtu_bytes: Option<u32>,
        now_ns: u64,
    ) -> bool {
        let known = &mut self.0[slot(&endpoint)];
        let before = known.filter(|before| {
            before.endpoint == endpoint
                && before.path_mtu_bytes == path_mtu_bytes
                && now_ns.saturating_sub(before.reported_ns) < REPORT_NS
        });
        let reported_ns = before.map_or(now_ns, |before| before.reported_ns);
        *known = Some(Known { endpoint, path_mtu_bytes, asked_ns: now_ns, reported_ns });
        before.is_none()
    }
}

fn slot(endpoint: &SocketAddr) -> usize {
    let sum = match endpoint.ip() {
        IpAddr::V4(address) => address.octets().iter().map(|byte| usize::from(*byte)).sum(),
        IpAddr::V6(address) => {
            address.octets().iter().map(|byte| usize::from(*byte)).sum::<usize>()
        }
    };
    sum % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 8472).into()
    }

    #[test]
    fn flood_of_refusals_is_one_question_in_a_while_and_one_report_a_second() {
        let (mut known, mut questions, mut reports) = (PathMtus::default(), 0, 0);
        // 12,000 packets a second for ten seconds.
        for number in 0..120_000u64 {
            let now_ns = number * 83_333;
            if known.recent(&peer(1), now_ns).is_none() {
                questions += 1;
                reports += u64::from(known.learn(peer(1), Some(1_400), now_ns));
            }
        }
        assert!((95..=100).contains(&questions), "{questions}");
        assert!((9..=10).contains(&reports), "{reports}");
    }

    #[test]
    fn another_value_is_reported_at_once() {
        let mut known = PathMtus::default();
        assert!(known.learn(peer(1), Some(1_400), MS));
        assert!(!known.learn(peer(1), Some(1_400), 200 * MS));
        assert!(known.learn(peer(1), Some(1_300), 300 * MS));
        assert_eq!(known.recent(&peer(1), 301 * MS), Some(Some(1_300)));
        assert!(known.learn(peer(1), None, 400 * MS));
    }

    #[test]
    fn peers_in_one_place_do_not_get_each_others_answer() {
        let mut known = PathMtus::default();
        let other: SocketAddr = ([192, 0, 3, 0], 8472).into();
        assert_eq!(slot(&peer(1)), slot(&other));
        known.learn(peer(1), Some(1_400), MS);
        assert_eq!(known.recent(&other, MS), None);
        assert!(known.learn(other, Some(1_400), MS));
        assert_eq!(known.recent(&peer(1), MS), None);
    }
}
