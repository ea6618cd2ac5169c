//! Every kernel against the definition.

type Sum = fn(&[u8]) -> u64;
type CopyAndSum = fn(&mut [u8], &[u8]) -> u64;

/// Every compilation that this processor can run, and the one that callers get.
fn kernels() -> Vec<(&'static str, Sum, CopyAndSum)> {
    let mut kernels: Vec<(_, Sum, CopyAndSum)> = vec![
        ("portable", crate::portable::sum, crate::portable::copy_and_sum),
        ("chosen", crate::sum, crate::copy_and_sum),
    ];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        kernels.push((
            "avx2",
            // SAFETY: the processor has AVX2.
            |bytes| unsafe { crate::avx2::sum(bytes) },
            // SAFETY: the processor has AVX2.
            |to, from| unsafe { crate::avx2::copy_and_sum(to, from) },
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
