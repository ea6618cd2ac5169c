//! The libraries that do the cryptography, and which of them is taken.
//!
//! aws-lc-rs, and ring where the processor has AES and carry-less multiplication on vectors of 256
//! bits (VAES, VPCLMULQDQ) but not of 512: of these aws-lc makes no use there, and is slower by half.

use core::fmt;

use crate::features::Features;

/// A library that does the cryptography.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// aws-lc-rs.
    AwsLc,
    /// ring.
    Ring,
}

impl Provider {
    /// Every provider.
    pub const ALL: &[Self] = &[Self::AwsLc, Self::Ring];

    /// Returns the provider that is the faster one on such a processor.
    pub const fn fastest(features: Features) -> Self {
        if features.vaes && !features.avx512 { Self::Ring } else { Self::AwsLc }
    }

    /// Returns its name in options and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc-rs",
            Self::Ring => "ring",
        }
    }

    /// Returns the provider of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|provider| provider.name() == name)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_is_taken_where_vectors_have_256_bits_and_no_more() {
        for (vaes, avx512, expected) in [
            (false, false, Provider::AwsLc),
            (true, false, Provider::Ring),
            (true, true, Provider::AwsLc),
            (false, true, Provider::AwsLc),
        ] {
            let features = Features { aes: true, vaes, avx512 };
            assert_eq!(Provider::fastest(features), expected, "{features:?}");
        }
    }

    #[test]
    fn names_lead_back_to_the_provider() {
        for provider in Provider::ALL {
            assert_eq!(Provider::named(&provider.to_string()), Some(*provider));
        }
        assert_eq!(Provider::named("openssl"), None);
    }
}
