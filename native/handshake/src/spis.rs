//! The SPI bases that this node has given out, so that no two sets share one.

use std::collections::{BTreeSet, VecDeque};

use crate::Random;
use crate::payload::spi_base;

/// How long the base of a set that is gone is not given out again: datagrams may still come.
pub(crate) const REST_NS: u64 = 180_000_000_000;

/// Bases in use, and those that rest.
#[derive(Debug, Default)]
pub(crate) struct Spis {
    taken: BTreeSet<u32>,
    resting: VecDeque<(u64, u32)>,
}

impl Spis {
    /// Returns a base that no set has or had lately.
    pub(crate) fn take(&mut self, now_ns: u64, random: &mut dyn Random) -> u32 {
        while let Some((gone_ns, base)) = self.resting.front().copied() {
            if now_ns < gone_ns + REST_NS {
                break;
            }
            self.resting.pop_front();
            self.taken.remove(&base);
        }
        loop {
            let base = spi_base(u32::from_be_bytes(crate::random(random)));
            if self.taken.insert(base) {
                return base;
            }
        }
    }

    /// Lets the base of a set rest that is gone.
    pub(crate) fn release(&mut self, base: u32, now_ns: u64) {
        self.resting.push_back((now_ns, base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts through the bases, each twice.
    struct Twice(u32);

    impl Random for Twice {
        fn fill(&mut self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&(self.0 / 2 % 3).to_be_bytes());
            self.0 += 1;
        }
    }

    #[test]
    fn a_base_is_one_sets_alone_until_180_s_after_it_is_gone() {
        let (mut spis, mut random) = (Spis::default(), Twice(0));
        let taken = [0; 3].map(|_| spis.take(0, &mut random));
        assert_eq!(taken, [0xc000_0000, 0xc000_0040, 0xc000_0080]);
        spis.release(taken[1], 5);
        spis.release(taken[2], 5 + REST_NS - 1);
        assert_eq!(spis.take(5 + REST_NS, &mut random), taken[1]);
    }
}
