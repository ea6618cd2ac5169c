//! Opening: ciphertext in a buffer becomes a packet in the same place.
//!
//! Path of a packet: underlay → `io` → **`open`** → `core::inbound`.
//! The order of the checks is fixed: length, SPI, number and window, ICV, window moved, padding
//! and next header, inner length. What is not authentic changes nothing.
//!
//! Source: RFC 4303 §3.4, RFC 4106 §3 to §5, RFC 7634 §2.

use core::ops::Range;

use crate::fault::Fault;
use crate::keys::{Key, additional_data};
use crate::packet::{self, Content, HEAD, ICV};
use crate::replay::Window;
use crate::sequence;
use crate::spi::Spi;

/// What was in a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it is.
    pub content: Content,
    /// Where in the datagram it lies; empty for a dummy.
    pub place: Range<usize>,
}

/// Opens `datagram` in place. After a fault from [`Fault::Forged`] on its bytes are of no use.
#[inline]
pub(crate) fn open(
    key: &Key,
    spi: Spi,
    is_alive: bool,
    window: &mut Window,
    datagram: &mut [u8],
) -> Result<Opened, Fault> {
    if datagram.len() < packet::MIN_LEN {
        return Err(Fault::Malformed);
    }
    let (head, text) = datagram.split_first_chunk_mut::<HEAD>().ok_or(Fault::Malformed)?;
    let [s0, s1, s2, s3, n0, n1, n2, n3, iv @ ..] = *head;
    if u32::from_be_bytes([s0, s1, s2, s3]) != spi.number() {
        return Err(Fault::OtherSpi);
    }
    if !is_alive {
        return Err(Fault::Ended);
    }
    let low = u32::from_be_bytes([n0, n1, n2, n3]);
    let number = sequence::infer(low, window.top()).ok_or(Fault::Sequence)?;
    if !window.is_new(number) {
        return Err(Fault::Replayed);
    }
    // The nonce is the one the sender chose: not every sender counts in its IVs.
    let aad = additional_data(spi, number);
    key.aead.open(key.nonce(iv), &aad, text).or(Err(Fault::Forged))?;
    window.see(number);
    let (content, len) = packet::unpack(&text[..text.len() - ICV])?;
    Ok(Opened { content, place: HEAD..HEAD + len })
}
