//! What goes around an inner packet, as a type that the outbound loop is generic over.
//!
//! Path of a packet: `outbound` → **`encapsulation`** → `batch`.
//! A datagram is `HEAD + inner + TAIL`; both lengths are known before a byte is written, so
//! that a slot can be laid out first and finished in place.

/// Puts an encapsulation around an inner packet that already stands in its slot.
pub trait Encapsulate {
    /// Bytes in front of the inner packet.
    const HEAD: usize;
    /// Most bytes behind it.
    const TAIL: usize;

    /// Hops that the tunnel takes off the inner packet at this end.
    const TAKES_HOP: bool;

    /// Finishes `slot`, whose bytes from `HEAD` to `slot.len() - TAIL` are the inner packet, and
    /// returns the length of the datagram in bytes.
    fn finish(slot: &mut [u8]) -> usize;
}

/// flannel's udp backend: the datagram is the inner packet.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Encapsulate for Raw {
    const HEAD: usize = 0;
    const TAIL: usize = 0;
    const TAKES_HOP: bool = true;

    fn finish(slot: &mut [u8]) -> usize {
        slot.len()
    }
}
