//! flannel's udp backend: the datagram is the inner packet.
//!
//! Source: flannel `pkg/backend/udp` (`proxy_amd64.c`: one hop is taken at each end).

use tunneld_wire::ip::Version;

use super::{Around, Decapsulate, Encapsulate, Origin, Stripped};
use crate::drop_reason::DropReason;

/// Nothing around the packet, in either direction.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Encapsulate for Raw {
    const HEAD: usize = 0;
    const TAIL: usize = 0;
    const TAKES_HOP: bool = true;
    const ARRIVES_UNCUT: bool = false;

    type Around<'a> = Self;

    fn begin(&self, _: usize, _: Version, _: usize, _: u64) -> Result<Self, DropReason> {
        Ok(Self)
    }

    fn inner(datagram: &[u8]) -> Option<&[u8]> {
        Some(datagram)
    }

    fn largest_inner(len: usize) -> usize {
        len
    }
}

impl Around for Raw {
    fn finish(&mut self, slot: &mut [u8]) -> Result<usize, DropReason> {
        Ok(slot.len())
    }
}

impl Decapsulate for Raw {
    const TAKES_HOP: bool = true;
    const ARRIVES_UNCUT: bool = false;

    type Run = ();

    /// Datagrams come from programs, which cut themselves: the kernel's word is all there is.
    fn split_len(&self, message: &[u8], segment_len: Option<usize>) -> usize {
        segment_len.filter(|len| *len > 0).unwrap_or(message.len()).max(1)
    }

    #[inline]
    fn strip(&self, (): &mut (), datagram: &mut [u8], _: u64) -> Result<Stripped, DropReason> {
        Ok(Stripped::Packet { place: 0..datagram.len(), origin: Origin::Address })
    }
}
