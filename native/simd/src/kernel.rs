//! The loops, and their compilations.
//!
//! Each 64-bit lane holds two 32-bit words; their halves are added apart, so that no carry is
//! ever lost. Lanes are added up at the end.

const LANES: usize = 8;
const BLOCK_LEN: usize = LANES * 8;
const LOW: u64 = 0xffff_ffff;

/// Sums of the lower and the upper halves of each lane.
struct Lanes {
    low: [u64; LANES],
    high: [u64; LANES],
}

impl Lanes {
    const ZERO: Self = Self { low: [0; LANES], high: [0; LANES] };

    #[inline(always)]
    fn add(&mut self, block: &[u8; BLOCK_LEN]) {
        for lane in 0..LANES {
            let mut word = [0; 8];
            word.copy_from_slice(&block[lane * 8..lane * 8 + 8]);
            let word = u64::from_ne_bytes(word);
            self.low[lane] += word & LOW;
            self.high[lane] += word >> 32;
        }
    }

    #[inline(always)]
    fn total(&self) -> u64 {
        self.low.iter().sum::<u64>() + self.high.iter().sum::<u64>()
    }
}

/// Returns the sum of fewer bytes than a block.
#[inline(always)]
fn sum_rest(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_ne_bytes(*word);
        sum += (word & LOW) + (word >> 32);
        rest = after;
    }
    while let Some((pair, after)) = rest.split_first_chunk::<2>() {
        sum += u64::from(u16::from_ne_bytes(*pair));
        rest = after;
    }
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = Lanes::ZERO;
    let mut rest = bytes;
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK_LEN>() {
        lanes.add(block);
        rest = after;
    }
    lanes.total() + sum_rest(rest)
}

#[inline(always)]
fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let mut lanes = Lanes::ZERO;
    let mut targets = to.chunks_exact_mut(BLOCK_LEN);
    let mut blocks = from.chunks_exact(BLOCK_LEN);
    for (target, block) in targets.by_ref().zip(blocks.by_ref()) {
        target.copy_from_slice(block);
        if let Some(block) = block.first_chunk() {
            lanes.add(block);
        }
    }
    let rest = blocks.remainder();
    targets.into_remainder().copy_from_slice(rest);
    lanes.total() + sum_rest(rest)
}

pub(crate) fn sum_portable(bytes: &[u8]) -> u64 {
    sum(bytes)
}

pub(crate) fn copy_and_sum_portable(to: &mut [u8], from: &[u8]) -> u64 {
    copy_and_sum(to, from)
}

/// # Safety
///
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn sum_avx2(bytes: &[u8]) -> u64 {
    sum(bytes)
}

/// # Safety
///
/// The processor must have AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn copy_and_sum_avx2(to: &mut [u8], from: &[u8]) -> u64 {
    copy_and_sum(to, from)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sum = fn(&[u8]) -> u64;
    type CopyAndSum = fn(&mut [u8], &[u8]) -> u64;

    /// Every compilation that this processor can run, and the one that callers get.
    fn kernels() -> Vec<(&'static str, Sum, CopyAndSum)> {
        let mut kernels: Vec<(_, Sum, CopyAndSum)> = vec![
            ("portable", sum_portable, copy_and_sum_portable),
            ("chosen", crate::sum, crate::copy_and_sum),
        ];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            kernels.push((
                "avx2",
                // SAFETY: the processor has AVX2.
                |bytes| unsafe { sum_avx2(bytes) },
                // SAFETY: the processor has AVX2.
                |to, from| unsafe { copy_and_sum_avx2(to, from) },
            ));
        }
        kernels
    }

    fn folded(mut sum: u64) -> u16 {
        while sum >> 16 != 0 {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// RFC 1071 §4.1, word by word.
    fn by_the_word(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn every_kernel_agrees_with_the_sum_by_the_word_at_every_length_and_alignment() {
        let all = bytes(66_000, 1);
        for (name, sum, copy_and_sum) in kernels() {
            for len in (0..300).chain([1_398, 1_460, 65_495, 65_535]) {
                for start in [0, 1, 2, 7, 33] {
                    let from = &all[start..start + len];
                    let mut to = vec![0; len];
                    assert_eq!(folded(sum(from)), by_the_word(from), "{name}, {start}, {len}");
                    assert_eq!(folded(copy_and_sum(&mut to, from)), by_the_word(from), "{name}");
                    assert_eq!(to, from, "{name}, {start}, {len}");
                }
            }
        }
    }

    #[test]
    fn all_ones_lose_no_carry() {
        let from = vec![0xff; 65_535];
        for (name, sum, copy_and_sum) in kernels() {
            assert_eq!(folded(sum(&from)), by_the_word(&from), "{name}");
            assert_eq!(sum(&from), copy_and_sum(&mut vec![0; 65_535], &from), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "slices of one length")]
    fn a_copy_into_a_slice_of_another_length_is_refused() {
        crate::copy_and_sum(&mut [0; 3], &[0; 4]);
    }
}
