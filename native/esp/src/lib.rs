//! ESP: packets sealed and opened in place.
//!
//! Path of a packet: TUN → `io` → `core` (with **`esp`**) → `io` → underlay, and back.
//! Tunnel mode with extended sequence numbers, in UDP. No I/O, no clock (time is an argument), no
//! allocation per packet; hostile bytes lead to a typed fault, never to a panic. It agrees no
//! keys: those come from a handshake.
//!
//! Source: RFC 4303 (ESP), RFC 3948 (in UDP), RFC 4106 (AES-GCM), RFC 7634 (ChaCha20-Poly1305).

#![forbid(unsafe_code)]

mod aead;
pub mod cipher;
pub mod fault;
pub mod features;
pub mod keys;
pub mod known_answers;
pub mod lone;
pub mod open;
pub mod packet;
pub mod provider;
pub mod replay;
pub mod sa;
pub mod seal;
pub mod sequence;
pub mod spi;

#[cfg(test)]
mod tests;
