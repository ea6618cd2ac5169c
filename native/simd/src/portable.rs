//! The plain loops: words of 64 bits are added up with their carries, which are kept apart.
//!
//! They serve every processor, what is too short for vectors, and what vectors leave over.

/// Sums of words, carries not lost.
#[derive(Clone, Copy)]
pub(crate) struct Words(u128);

impl Words {
    #[inline]
    pub(crate) const fn new(sum: u64) -> Self {
        Self(sum as u128)
    }

    #[inline]
    const fn add(&mut self, word: u64) {
        self.0 += word as u128;
    }

    /// Adds bytes that stand an even number of bytes behind those before.
    #[inline]
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((word, after)) = rest.split_first_chunk() {
            self.add(u64::from_ne_bytes(*word));
            rest = after;
        }
        if let Some((word, after)) = rest.split_first_chunk() {
            self.add(u32::from_ne_bytes(*word).into());
            rest = after;
        }
        if let Some((word, after)) = rest.split_first_chunk() {
            self.add(u16::from_ne_bytes(*word).into());
            rest = after;
        }
        if let [last] = rest {
            self.add(u16::from_ne_bytes([*last, 0]).into());
        }
    }

    /// Returns a number below 2^34 that folds to the same 16 bits.
    #[inline]
    pub(crate) const fn total(self) -> u64 {
        let (carries, words) = ((self.0 >> 64) as u64, self.0 as u64);
        (words >> 32) + (words & 0xffff_ffff) + carries
    }
}

#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let mut words = Words::new(0);
    words.add_bytes(bytes);
    words.total()
}

#[inline]
pub(crate) fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let mut words = Words::new(0);
    to.copy_from_slice(from);
    words.add_bytes(from);
    words.total()
}
