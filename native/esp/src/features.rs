//! What the processor at hand can do, as far as ciphers and providers are chosen by it.

/// What the processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// It has instructions for AES.
    pub aes: bool,
    /// It does AES and carry-less multiplication on vectors of 256 bits.
    pub vaes: bool,
    /// It has vectors of 512 bits, with all that aws-lc asks of them.
    pub avx512: bool,
}

impl Features {
    /// Returns what the processor at hand can do.
    pub fn detected() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            Self {
                aes: has!("aes") && has!("pclmulqdq"),
                vaes: has!("vaes") && has!("vpclmulqdq") && has!("avx2"),
                avx512: has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_processor_can_do_is_what_the_kernel_says() {
        let said = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = said.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        let features = Features::detected();
        assert_eq!(features.aes, has("aes") && has("pclmulqdq"));
        assert_eq!(features.vaes, has("vaes") && has("vpclmulqdq") && has("avx2"));
    }
}
