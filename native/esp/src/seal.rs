//! Sealing: a packet in its slot becomes ciphertext in the same place.
//!
//! Path of a packet: `core::outbound` → **`seal`** → `io` → underlay.
//!
//! Source: RFC 4303 §3.3, RFC 4106 §3 to §5, RFC 7634 §2.

use core::fmt;

use crate::keys::{Key, additional_data};
use crate::packet::{Content, HEAD, ICV, TAIL, TRAILER, padding};
use crate::spi::Spi;

/// Why a packet was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The SA has no sequence number left.
    Exhausted,
    /// The SA's time is over.
    Ended,
    /// The provider did not do it.
    Provider,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: &[Self] = &[Self::Exhausted, Self::Ended, Self::Provider];

    /// Returns its name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Exhausted => "sa_exhausted",
            Self::Ended => "sa_ended",
            Self::Provider => "sealing_failed",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Seals `slot`, whose bytes from [`HEAD`] to `slot.len() - TAIL` are the payload, as packet
/// `number`; returns the length of the packet in bytes.
///
/// # Panics
///
/// Where `slot` has no room for [`HEAD`] and [`TAIL`].
#[inline]
pub(crate) fn seal(
    key: &Key,
    spi: Spi,
    number: u64,
    content: Content,
    slot: &mut [u8],
) -> Result<usize, Refusal> {
    let len = slot.len() - HEAD - TAIL;
    let padding = padding(len);
    let end = HEAD + len + padding + TRAILER;
    let iv = number.to_be_bytes();
    slot[..4].copy_from_slice(&spi.number().to_be_bytes());
    slot[4..8].copy_from_slice(&iv[4..]);
    slot[8..HEAD].copy_from_slice(&iv);
    slot[HEAD + len..end - TRAILER].copy_from_slice(&[1, 2, 3][..padding]);
    slot[end - 2] = padding as u8;
    slot[end - 1] = content.next_header();
    let text = &mut slot[HEAD..end];
    let icv = key.aead.seal(key.nonce(iv), &additional_data(spi, number), text);
    slot[end..end + ICV].copy_from_slice(&icv.or(Err(Refusal::Provider))?);
    Ok(end + ICV)
}
