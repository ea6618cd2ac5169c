//! The loops for AVX2.
//!
//! An element adds up its words of 64 bits twice: whole, where carries get lost, and their upper
//! halves alone, where none can. What the lower halves add up to is the difference of the two, to
//! the last carry. So a vector costs a shift and two additions.

// What works on registers alone is safe to call here, but not in the oldest Rust that is supported.
#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_sub_epi64,
};

use crate::portable::{self, Words};

const VECTOR_LEN: usize = 32;
/// Two vectors, each with sums of its own: the additions of one do not wait for the other's.
const PAIR_LEN: usize = 2 * VECTOR_LEN;

type Vector = [u8; VECTOR_LEN];

/// Sums of the words and of their upper halves, for each element.
#[derive(Clone, Copy)]
struct Sums {
    whole: __m256i,
    upper: __m256i,
}

impl Sums {
    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn zero() -> Self {
        let bytes = [0; VECTOR_LEN];
        // SAFETY: as many bytes are there.
        let zero = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        Self { whole: zero, upper: zero }
    }

    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn add(&mut self, from: &Vector) -> __m256i {
        // SAFETY: as many bytes are there.
        unsafe {
            let words = _mm256_loadu_si256(from.as_ptr().cast());
            self.whole = _mm256_add_epi64(self.whole, words);
            self.upper = _mm256_add_epi64(self.upper, _mm256_srli_epi64::<32>(words));
            words
        }
    }

    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn copy_and_add(&mut self, to: &mut Vector, from: &Vector) {
        // SAFETY: the processor has AVX2.
        let words = unsafe { self.add(from) };
        // SAFETY: as many bytes are there.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) }
    }

    /// # Safety
    ///
    /// The processor must have AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn total(self, other: Self) -> Words {
        let mut elements = [0u64; 4];
        // SAFETY: as many bytes are there.
        unsafe {
            let whole = _mm256_add_epi64(self.whole, other.whole);
            let upper = _mm256_add_epi64(self.upper, other.upper);
            let lower = _mm256_sub_epi64(whole, _mm256_slli_epi64::<32>(upper));
            _mm256_storeu_si256(elements.as_mut_ptr().cast(), _mm256_add_epi64(lower, upper));
        }
        Words::new(elements.iter().sum())
    }
}

/// # Safety
///
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn sum(bytes: &[u8]) -> u64 {
    // SAFETY: the processor has AVX2.
    let mut even = unsafe { Sums::zero() };
    let mut odd = even;
    let (vectors, rest) = bytes.split_at(bytes.len() - bytes.len() % VECTOR_LEN);
    let pairs = vectors.chunks_exact(PAIR_LEN);
    let left_over = pairs.remainder().first_chunk();
    for pair in pairs {
        let Some((first, second)) = halves(pair) else { break };
        // SAFETY: the processor has AVX2.
        unsafe { even.add(first) };
        // SAFETY: the processor has AVX2.
        unsafe { odd.add(second) };
    }
    if let Some(vector) = left_over {
        // SAFETY: the processor has AVX2.
        unsafe { even.add(vector) };
    }
    // SAFETY: the processor has AVX2.
    let mut words = unsafe { even.total(odd) };
    words.add_bytes(rest);
    words.total()
}

/// # Safety
///
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let to = &mut to[..from.len()];
    // What is less than a vector is copied along with what stands in front of it.
    match (to.last_chunk_mut::<VECTOR_LEN>(), from.last_chunk()) {
        (Some(target), Some(last)) => *target = *last,
        _ => return portable::copy_and_sum(to, from),
    }
    // SAFETY: the processor has AVX2.
    let mut even = unsafe { Sums::zero() };
    let mut odd = even;
    let (pairs, rest) = from.split_at(from.len() - from.len() % PAIR_LEN);
    let (targets, to_rest) = to.split_at_mut(pairs.len());
    for (target, pair) in targets.chunks_exact_mut(PAIR_LEN).zip(pairs.chunks_exact(PAIR_LEN)) {
        let Some((first, second)) = halves(pair) else { break };
        let Some((to_first, to_second)) = target.split_first_chunk_mut() else { break };
        let Some(to_second) = to_second.first_chunk_mut() else { break };
        // SAFETY: the processor has AVX2.
        unsafe { even.copy_and_add(to_first, first) };
        // SAFETY: the processor has AVX2.
        unsafe { odd.copy_and_add(to_second, second) };
    }
    let (vectors, rest) = rest.split_at(rest.len() - rest.len() % VECTOR_LEN);
    if let (Some(target), Some(vector)) = (to_rest.first_chunk_mut(), vectors.first_chunk()) {
        // SAFETY: the processor has AVX2.
        unsafe { even.copy_and_add(target, vector) };
    }
    // SAFETY: the processor has AVX2.
    let mut words = unsafe { even.total(odd) };
    words.add_bytes(rest);
    words.total()
}

fn halves(pair: &[u8]) -> Option<(&Vector, &Vector)> {
    let (first, second) = pair.split_first_chunk()?;
    Some((first, second.first_chunk()?))
}
