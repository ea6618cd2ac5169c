//! The window of sequence numbers that may still arrive, each once.
//!
//! Looking and moving are two steps: a number moves the window only after its packet was opened,
//! so that a forged one moves nothing.
//!
//! Source: RFC 6479 (a ring of blocks, cleared block by block as the window moves on).

/// Numbers below the highest seen, with it, that are told apart: one block is always partly
/// cleared.
pub const USABLE: u64 = BITS - BLOCK_BITS;

const BITS: u64 = 8_192;
const BLOCK_BITS: u64 = 64;
const BLOCKS: usize = (BITS / BLOCK_BITS) as usize;

/// The window.
#[derive(Debug)]
pub struct Window {
    top: u64,
    blocks: [u64; BLOCKS],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// Returns the window of an SA under which nothing has come yet.
    pub const fn new() -> Self {
        Self { top: 0, blocks: [0; BLOCKS] }
    }

    /// Returns the highest number seen, 0 if none.
    pub const fn top(&self) -> u64 {
        self.top
    }

    /// Returns whether `number` may be opened: it has not been seen, and is not so old that nobody
    /// knows. Changes nothing.
    #[inline]
    pub const fn is_new(&self, number: u64) -> bool {
        if number > self.top {
            return true;
        }
        if self.top - number >= USABLE {
            return false;
        }
        let (block, bit) = place(number);
        self.blocks[block] & bit == 0
    }

    /// Takes note of `number`, which was opened. It must be new.
    #[inline]
    pub fn see(&mut self, number: u64) {
        debug_assert!(self.is_new(number), "a number is seen once");
        if number > self.top {
            let (from, to) = (self.top / BLOCK_BITS, number / BLOCK_BITS);
            for passed in 1..=(to - from).min(BLOCKS as u64) {
                self.blocks[((from + passed) % BLOCKS as u64) as usize] = 0;
            }
            self.top = number;
        }
        let (block, bit) = place(number);
        self.blocks[block] |= bit;
    }
}

/// Returns the block of a number, and its bit there.
const fn place(number: u64) -> (usize, u64) {
    ((number / BLOCK_BITS) as usize % BLOCKS, 1 << (number % BLOCK_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tests::Seeded;

    /// What the window should know, kept as a set of all numbers ever seen.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn top(&self) -> u64 {
            self.seen.last().copied().unwrap_or(0)
        }

        fn is_new(&self, number: u64) -> bool {
            !self.seen.contains(&number) && number + 8_128 > self.top()
        }
    }

    /// A window and its model, which must agree.
    #[derive(Default)]
    struct Pair {
        window: Window,
        model: Model,
    }

    impl Pair {
        fn arrive(&mut self, number: u64) {
            let expected = self.model.is_new(number);
            assert_eq!(self.window.is_new(number), expected, "{number}, top {}", self.model.top());
            if expected {
                self.window.see(number);
                self.model.seen.insert(number);
            }
            assert_eq!(self.window.top(), self.model.top());
        }

        /// Compares all numbers about the window.
        fn compare(&self) {
            let top = self.model.top();
            for number in top.saturating_sub(9_000).max(1)..top + 200 {
                assert_eq!(
                    self.window.is_new(number),
                    self.model.is_new(number),
                    "{number}, {top}"
                );
            }
        }
    }

    #[test]
    fn the_window_has_8128_numbers() {
        assert_eq!(USABLE, 8_128);
        let mut window = Window::new();
        window.see(10_000);
        assert!(window.is_new(10_000 - 8_127));
        assert!(!window.is_new(10_000 - 8_128));
    }

    #[test]
    fn looking_changes_nothing() {
        let window = Window::new();
        assert!(window.is_new(5) && window.is_new(5) && window.is_new(1));
        assert_eq!(window.top(), 0);
    }

    #[test]
    fn a_number_is_taken_once_wherever_it_lies_in_the_window() {
        for start in [1, 63, 64, 8_191, 8_192, (1 << 32) - 8_128, 1 << 32, (1 << 36) - 8_128] {
            let mut window = Window::new();
            let last: u64 = start + 8_127;
            window.see(last);
            for number in start..last {
                assert!(window.is_new(number), "{number}");
                window.see(number);
                assert!(!window.is_new(number), "{number}");
            }
            assert!(!window.is_new(last));
            assert_eq!(window.top(), last);
        }
    }

    #[test]
    fn a_jump_of_any_length_forgets_what_it_passes_and_nothing_else() {
        let around = |place: u64| place - 2..=place + 2;
        let jumps = [64, 128, 8_064, 8_128, 8_192, 16_384, 1 << 32].into_iter().flat_map(around);
        for jump in jumps.chain(1..=70) {
            let mut pair = Pair::default();
            (1..=500).filter(|number| number % 3 != 0).for_each(|number| pair.arrive(number));
            pair.arrive(499 + jump);
            pair.compare();
        }
    }

    #[test]
    fn the_window_agrees_with_a_set_of_numbers() {
        for seed in 0..40 {
            let mut seeded = Seeded::new(seed);
            let mut pair = Pair::default();
            let start = [1, (1 << 32) - 20_000, (1 << 36) - 50_000][seed as usize % 3];
            pair.arrive(start);
            for _ in 0..4_000 {
                let top = pair.model.top();
                let number = match seeded.next() % 16 {
                    0 => top + seeded.next() % 20_000,
                    1 => top.saturating_sub(8_120 + seeded.next() % 16),
                    2..=5 => top.saturating_sub(seeded.next() % 8_300),
                    6..=9 => top.saturating_sub(seeded.next() % 70),
                    _ => top + 1 + seeded.next() % 3,
                };
                pair.arrive(number.max(1));
            }
            pair.compare();
        }
    }
}
