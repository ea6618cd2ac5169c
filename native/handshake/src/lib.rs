//! The handshake that agrees the keys of ESP, as values without I/O, clock or randomness.
//!
//! Path of a message: underlay → `io` → **`handshake::node`** → `io` → underlay; keys go from
//! here to `esp`. [`message`] and [`payload`] have the bytes, [`mac`] what is checked before any
//! Diffie-Hellman, [`noise`] the cryptography, [`node`] the state machine.
//!
//! Time and random bytes are arguments. Private keys, PSKs and keys of SAs are wiped when
//! dropped; `snow` keeps copies of its chaining key that cannot be reached from here.
//!
//! Source: Noise Protocol Framework rev. 34 (pattern IKpsk2); WireGuard whitepaper §5, §6 for the
//! skeleton and timers; RFC 7296 §2.6 for cookies.

#![forbid(unsafe_code)]

pub mod cipher;
pub mod kdf;
pub mod key;
mod limits;
pub mod mac;
pub mod message;
pub mod node;
pub mod noise;
pub mod payload;
pub mod psk;
pub mod resolver;
mod spis;

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;

/// Where random bytes come from.
pub trait Random {
    /// Fills `bytes` with what nobody can predict.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// Returns `N` random bytes.
pub(crate) fn random<const N: usize>(source: &mut dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    source.fill(&mut bytes);
    bytes
}
