//! Sums for the Internet checksum, alone or along with a copy.
//!
//! Path of a packet: called by `wire::checksum` for every byte that is summed.
//! One loop, written so that the compiler makes vector code of it, is compiled twice: for AVX2,
//! taken where the processor has it, and for the plain target. No I/O, no format, no allocation.
//!
//! Source: RFC 1071 §2 (B) and (C): the sum does not care for byte order, nor for how many
//! 16-bit words are added at once.

mod kernel;

/// Returns a sum over `bytes` in the machine's own byte order, carries not yet folded in.
///
/// Folded to 16 bits it is the one's complement sum; an odd last byte counts as padded with
/// zero. It is below 2^49 for any slice below 4 GiB, so that many of them can be added up.
pub fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { kernel::sum_avx2(bytes) };
    }
    kernel::sum_portable(bytes)
}

/// Copies `from` to `to`, which must be of the same length, and returns [`sum`] of it.
///
/// # Panics
///
/// Where the lengths differ.
pub fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    assert_eq!(to.len(), from.len(), "a copy goes between slices of one length");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { kernel::copy_and_sum_avx2(to, from) };
    }
    kernel::copy_and_sum_portable(to, from)
}
