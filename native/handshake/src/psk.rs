//! Pre-shared keys: membership of a network, up to two at once while they are exchanged.
//!
//! Source: RFC 5869; Noise Protocol Framework rev. 34 §9.

use std::fmt;

use zeroize::Zeroizing;

use crate::kdf::{hkdf_32, sha256};

/// Bytes that a PSK may have.
pub const LENGTHS: std::ops::RangeInclusive<usize> = 32..=64;

/// Most PSKs that a node holds.
pub const MOST: usize = 2;

/// What names a PSK on the wire; zeros where there is none.
pub type Id = [u8; 4];

/// One PSK, as Noise takes it. Wiped when dropped.
#[derive(Clone)]
struct Psk {
    id: Id,
    key: Zeroizing<[u8; 32]>,
}

/// The PSKs of a node, the one it names first in front.
#[derive(Clone, Default)]
pub struct Psks(Vec<Psk>);

impl fmt::Debug for Psks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Psks({})", self.0.len())
    }
}

/// Why PSKs are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PskError {
    /// More than two.
    TooMany,
    /// This many bytes, instead of 32 to 64.
    Length(usize),
}

impl fmt::Display for PskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => {
                f.write_str("more than two PSKs: a rotation takes the old and the new")
            }
            Self::Length(len) => write!(f, "a PSK of {len} bytes: expected 32 to 64 random bytes"),
        }
    }
}

impl std::error::Error for PskError {}

impl Psks {
    /// Derives what Noise takes from the PSKs of a network.
    ///
    /// # Errors
    ///
    /// More than two, or one of another length than 32 to 64 bytes.
    pub fn new(network: &str, psks: &[Zeroizing<Vec<u8>>]) -> Result<Self, PskError> {
        if psks.len() > MOST {
            return Err(PskError::TooMany);
        }
        let derived = psks.iter().map(|psk| {
            if !LENGTHS.contains(&psk.len()) {
                return Err(PskError::Length(psk.len()));
            }
            let digest = sha256(&[b"tunneld/1 psk id", psk]);
            let [a, b, c, d, ..] = digest;
            let key = hkdf_32(b"tunneld/1 psk", psk, network.as_bytes());
            Ok(Psk { id: [a, b, c, d], key })
        });
        Ok(Self(derived.collect::<Result<_, _>>()?))
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names to send.
    pub fn ids(&self) -> [Id; MOST] {
        let mut ids = [Id::default(); MOST];
        ids.iter_mut().zip(&self.0).for_each(|(id, psk)| *id = psk.id);
        ids
    }

    /// Returns the first of those an initiator named that is here; zeros where neither has one.
    pub fn chosen(&self, named: &[Id; MOST]) -> Option<Zeroizing<[u8; 32]>> {
        if self.0.is_empty() {
            return (*named == [Id::default(); MOST]).then(Zeroizing::default);
        }
        let known = named.iter().find_map(|id| self.0.iter().find(|psk| psk.id == *id));
        known.map(|psk| psk.key.clone())
    }

    /// Returns what an answer may have been sealed with, most likely first; zeros without PSK.
    pub fn candidates(&self) -> Vec<Zeroizing<[u8; 32]>> {
        if self.0.is_empty() {
            return vec![Zeroizing::default()];
        }
        self.0.iter().map(|psk| psk.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn psks(bytes: &[u8]) -> Psks {
        let list: Vec<_> = bytes.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect();
        Psks::new("/coreos.com/network", &list).unwrap()
    }

    /// By Python's hashlib and hmac:
    /// `sha256(b"tunneld/1 psk id" + bytes(32)).digest()[:4]` and
    /// `hmac(hmac(b"tunneld/1 psk", bytes(32)), b"/coreos.com/network\x01")`.
    #[test]
    fn derivation_is_that_of_another_implementation() {
        let psks = psks(&[0]);
        assert_eq!(psks.ids(), [PSK_ID, [0; 4]]);
        assert_eq!(*psks.candidates()[0], PSK_KEY);
    }
    const PSK_ID: Id = [0x77, 0xad, 0xe7, 0xad];
    const PSK_KEY: [u8; 32] = [
        0xe2, 0x6c, 0x75, 0xce, 0xfd, 0xc5, 0xe8, 0x7e, 0x8a, 0xf6, 0x83, 0x05, 0xf6, 0x41, 0xf3,
        0xcf, 0xdf, 0xfd, 0xea, 0xf2, 0xf5, 0xec, 0x17, 0x42, 0x2c, 0x7d, 0xcd, 0xbe, 0xcc, 0xfe,
        0x3b, 0xf6,
    ];

    #[test]
    fn a_rotation_finds_the_psk_that_both_have() {
        let (old, both, turned, new) = (psks(&[1]), psks(&[1, 2]), psks(&[2, 1]), psks(&[2]));
        assert_eq!(old.chosen(&both.ids()), old.candidates().pop());
        assert_eq!(both.chosen(&turned.ids()), new.candidates().pop());
        assert_eq!(new.chosen(&both.ids()), new.candidates().pop());
        assert_eq!(old.chosen(&new.ids()), None);
    }

    #[test]
    fn a_node_with_a_psk_meets_none_without_one() {
        assert_eq!(psks(&[1]).chosen(&Psks::default().ids()), None);
        assert_eq!(Psks::default().chosen(&psks(&[1]).ids()), None);
        assert!(Psks::default().chosen(&Psks::default().ids()).is_some());
    }

    #[test]
    fn a_psk_of_another_length_and_a_third_one_are_refused() {
        let of = |len: usize| Zeroizing::new(vec![7; len]);
        for len in [0, 31, 65] {
            assert_eq!(Psks::new("/n", &[of(len)]).unwrap_err(), PskError::Length(len));
        }
        assert_eq!(Psks::new("/n", &[of(32), of(33), of(64)]).unwrap_err(), PskError::TooMany);
    }

    #[test]
    fn no_psk_shows_in_debug_output() {
        assert_eq!(format!("{:?}", psks(&[1, 2])), "Psks(2)");
    }
}
