//! Sums for the Internet checksum, alone or along with a copy.
//!
//! Path of a packet: called by `wire::checksum` for every byte that is summed.
//! There are loops for AVX2, taken where the processor has it, and plain ones. No I/O, no format,
//! no allocation.
//!
//! Source: RFC 1071 §2 (B) and (C): the sum does not care for byte order, nor for how many
//! 16-bit words are added at once.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(test)]
mod tests;

/// Below as many bytes vectors do not pay.
const FEWEST: usize = 64;

/// Returns a sum over `bytes` in the machine's own byte order, carries not yet folded in.
///
/// Folded to 16 bits it is the one's complement sum; an odd last byte counts as padded with
/// zero. It is below 2^34, so that many of them can be added up.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    if bytes.len() < FEWEST { portable::sum(bytes) } else { sum_many(bytes) }
}

fn sum_many(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::sum(bytes) };
    }
    portable::sum(bytes)
}

/// Copies `from` to `to`, which must be of the same length, and returns [`sum`] of it.
///
/// # Panics
///
/// Where the lengths differ.
#[inline]
pub fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy goes between slices of one length");
    if from.len() < FEWEST { portable::copy_and_sum(to, from) } else { copy_and_sum_many(to, from) }
}

fn copy_and_sum_many(to: &mut [u8], from: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::copy_and_sum(to, from) };
    }
    portable::copy_and_sum(to, from)
}
