//! How often something may happen: a token bucket, and one for each source address.
//!
//! Source: WireGuard whitepaper §5.3 (20 a second, burst 5, for each source under load).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

const SECOND_NS: u64 = 1_000_000_000;

/// Most sources that are told apart. What is beyond them waits until one is forgotten.
pub(crate) const MOST_SOURCES: usize = 4_096;

/// A token bucket. Its fill is kept as time.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    token_ns: u64,
    room_ns: u64,
    credit_ns: u64,
    filled_at_ns: u64,
}

impl Bucket {
    pub(crate) fn new(rate_per_s: u64, burst: u64) -> Self {
        let token_ns = SECOND_NS / rate_per_s;
        let room_ns = burst * token_ns;
        Self { token_ns, room_ns, credit_ns: room_ns, filled_at_ns: 0 }
    }

    fn fill(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.filled_at_ns);
        self.filled_at_ns = self.filled_at_ns.max(now_ns);
        self.credit_ns = self.credit_ns.saturating_add(passed_ns).min(self.room_ns);
    }

    /// Takes a token; returns whether there was one.
    pub(crate) fn take(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        let rest = self.credit_ns.checked_sub(self.token_ns);
        self.credit_ns = rest.unwrap_or(self.credit_ns);
        rest.is_some()
    }

    fn is_full(&mut self, now_ns: u64) -> bool {
        self.fill(now_ns);
        self.credit_ns == self.room_ns
    }
}

/// A bucket for each source: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<IpAddr, Bucket>);

impl Sources {
    /// Takes a token of a source; returns whether there was one.
    pub(crate) fn take(&mut self, source: IpAddr, now_ns: u64) -> bool {
        let source = match source.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
        };
        if !self.0.contains_key(&source) && self.0.len() >= MOST_SOURCES {
            self.0.retain(|_, bucket| !bucket.is_full(now_ns));
            if self.0.len() >= MOST_SOURCES {
                return false;
            }
        }
        self.0.entry(source).or_insert_with(|| Bucket::new(20, 5)).take(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_a_burst_of_5_and_20_a_second_and_others_have_theirs() {
        let mut sources = Sources::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let taken = |sources: &mut Sources, source: &str, now_ns| {
            (0..100).filter(|_| sources.take(source.parse().unwrap(), now_ns)).count()
        };
        assert_eq!(taken(&mut sources, "192.0.2.1", 0), 5);
        assert_eq!(taken(&mut sources, "192.0.2.2", 0), 5);
        let slowly = (1..=1_000u64).filter(|ms| sources.take(one, ms * SECOND_NS / 1_000)).count();
        assert_eq!(slowly, 20);
        // One host holds a whole /64.
        assert_eq!(taken(&mut sources, "2001:db8::1", 0), 5);
        assert_eq!(taken(&mut sources, "2001:db8::2", 0), 0);
        assert_eq!(taken(&mut sources, "2001:db8:0:1::2", 0), 5);
    }

    #[test]
    fn however_many_sources_there_are_the_memory_is_bounded() {
        let mut sources = Sources::default();
        for number in 0..10_000u32 {
            sources.take(IpAddr::V4(number.into()), 0);
        }
        assert_eq!(sources.0.len(), MOST_SOURCES);
        // Those that have been quiet make room.
        assert!(sources.take("192.0.2.1".parse().unwrap(), SECOND_NS));
        assert_eq!(sources.0.len(), 1);
    }
}
