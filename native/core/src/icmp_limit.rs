//! Rate limit of ICMP errors: a token bucket with time passed in.
//!
//! One bucket per data thread, so that no thread waits for another.
//!
//! Source: RFC 1812 §4.3.2.8; the figures are Linux' icmp_msgs_per_sec and icmp_msgs_burst.

/// Errors per second, in the long run.
pub const RATE_PER_S: u64 = 1_000;
/// Errors at once after a quiet time.
pub const BURST: u64 = 50;

const TOKEN_NS: u64 = 1_000_000_000 / RATE_PER_S;

/// The bucket. Its fill is kept as time: one token is worth a millisecond.
#[derive(Debug)]
pub struct IcmpLimit {
    credit_ns: u64,
    filled_at_ns: u64,
}

impl Default for IcmpLimit {
    fn default() -> Self {
        Self { credit_ns: BURST * TOKEN_NS, filled_at_ns: 0 }
    }
}

impl IcmpLimit {
    /// Takes a token; returns whether there was one. A clock that stands still adds nothing.
    pub fn take(&mut self, now_ns: u64) -> bool {
        let passed_ns = now_ns.saturating_sub(self.filled_at_ns);
        self.filled_at_ns = self.filled_at_ns.max(now_ns);
        self.credit_ns = self.credit_ns.saturating_add(passed_ns).min(BURST * TOKEN_NS);
        match self.credit_ns.checked_sub(TOKEN_NS) {
            Some(rest) => {
                self.credit_ns = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_is_let_through_and_then_no_more() {
        let mut limit = IcmpLimit::default();
        let passed = (0..1_000).filter(|_| limit.take(SECOND)).count();
        assert_eq!(passed as u64, BURST);
    }

    #[test]
    fn the_long_run_keeps_to_the_rate() {
        let mut limit = IcmpLimit::default();
        let passed = (0..100_000u64).filter(|i| limit.take(SECOND + i * 100_000)).count() as u64;
        assert!((10 * RATE_PER_S..=10 * RATE_PER_S + BURST).contains(&passed), "{passed}");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut limit = IcmpLimit::default();
        while limit.take(10 * SECOND) {}
        assert!(!limit.take(SECOND));
        assert!(!limit.take(10 * SECOND));
        assert!(limit.take(10 * SECOND + TOKEN_NS));
    }
}
