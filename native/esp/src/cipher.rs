//! The three ciphers, by the numbers the handshake knows them under.
//!
//! Source: RFC 4106 (AES-GCM in ESP), RFC 7634 (ChaCha20-Poly1305 in ESP).

use core::fmt;

use crate::features::Features;

/// Length of the salt that stands behind a key, in bytes.
pub const SALT: usize = 4;
/// Length of the longest key with its salt, in bytes.
pub const MAX_MATERIAL: usize = 32 + SALT;

/// How packets are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cipher {
    /// AES-256-GCM.
    Aes256Gcm = 1,
    /// AES-128-GCM.
    Aes128Gcm = 2,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 3,
}

impl Cipher {
    /// Every cipher, in order of its number.
    pub const ALL: &[Self] = &[Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// Returns the cipher of that number.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::Aes128Gcm),
            3 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Returns its number in a handshake.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns its name in options and in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Aes128Gcm => "aes-128-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Returns the cipher of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|cipher| cipher.name() == name)
    }

    /// Returns the cipher that this processor is best at.
    pub const fn preferred(features: Features) -> Self {
        if features.aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    /// Returns the length of a key, in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes128Gcm => 16,
        }
    }

    /// Returns the length of a key and its salt, in bytes.
    pub const fn material_len(self) -> usize {
        self.key_len() + SALT
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back_to_the_cipher() {
        let numbers: Vec<u8> = Cipher::ALL.iter().map(|cipher| cipher.number()).collect();
        assert_eq!(numbers, [1, 2, 3]);
        for cipher in Cipher::ALL.iter().copied() {
            assert_eq!(Cipher::of(cipher.number()), Some(cipher));
            assert_eq!(Cipher::named(&cipher.to_string()), Some(cipher));
        }
        assert_eq!((Cipher::of(0), Cipher::of(4), Cipher::named("null")), (None, None, None));
    }

    #[test]
    fn a_key_with_its_salt_has_36_or_20_bytes() {
        let lens: Vec<usize> = Cipher::ALL.iter().map(|cipher| cipher.material_len()).collect();
        assert_eq!(lens, [36, 20, 36]);
    }

    #[test]
    fn without_aes_instructions_chacha20_is_preferred() {
        let with = Features { aes: true, ..Features::default() };
        assert_eq!(Cipher::preferred(with), Cipher::Aes256Gcm);
        assert_eq!(Cipher::preferred(Features::default()), Cipher::ChaCha20Poly1305);
    }
}
