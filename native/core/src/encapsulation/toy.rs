//! An encapsulation for tests, of the kind that is no plain header: it numbers its datagrams, changes
//! the inner bytes, pads them to words, has messages of its own, and says itself who sent a packet.

use std::cell::Cell;
use std::num::NonZeroU64;

use tunneld_wire::ip::Version;

use super::{Around, Decapsulate, Encapsulate, Origin, Stripped};
use crate::drop_reason::DropReason;

/// A kind (0: packet, 1: message), and a number.
const HEAD: usize = 3;

/// Numbers there are.
pub(crate) const NUMBERS: u16 = 20_000;

/// Both ends of the tunnel to one peer.
pub(crate) struct Toy {
    pub(crate) peer: NonZeroU64,
    pub(crate) next: Cell<u16>,
}

/// The numbers of one packet's datagrams.
pub(crate) struct Numbers {
    next: u16,
}

impl Toy {
    pub(crate) const fn new(peer: NonZeroU64) -> Self {
        Self { peer, next: Cell::new(0) }
    }
}

impl Encapsulate for Toy {
    const HEAD: usize = HEAD;
    const TAIL: usize = 4;
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = false;

    type Around<'a> = Numbers;

    fn begin(&self, _: usize, _: Version, datagrams: usize, _: u64) -> Result<Numbers, DropReason> {
        let next = self.next.get();
        let after = u16::try_from(usize::from(next) + datagrams).ok();
        let after = after.filter(|after| *after <= NUMBERS).ok_or(DropReason::WayFull)?;
        self.next.set(after);
        Ok(Numbers { next })
    }

    fn inner(_: &[u8]) -> Option<&[u8]> {
        None
    }

    fn largest_inner(len: usize) -> usize {
        (len.saturating_sub(HEAD) & !3).saturating_sub(1)
    }
}

impl Around for Numbers {
    fn finish(&mut self, slot: &mut [u8]) -> Result<usize, DropReason> {
        let inner_len = slot.len() - HEAD - 4;
        let padding = 3 - inner_len % 4;
        let end = HEAD + inner_len + padding + 1;
        slot[HEAD + inner_len..end].fill(padding as u8);
        slot[HEAD..end].iter_mut().for_each(|byte| *byte ^= 0x5a);
        let [high, low] = self.next.to_be_bytes();
        slot[..HEAD].copy_from_slice(&[0, high, low]);
        self.next += 1;
        Ok(end)
    }
}

impl Decapsulate for Toy {
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = false;

    /// How many came before.
    type Run = usize;

    fn split_len(&self, message: &[u8], segment_len: Option<usize>) -> usize {
        segment_len.unwrap_or(message.len()).max(1)
    }

    fn strip(&self, run: &mut usize, datagram: &mut [u8], _: u64) -> Result<Stripped, DropReason> {
        *run += 1;
        match datagram {
            [1, ..] => return Ok(Stripped::Control),
            [0, _, _, inner @ ..] if !inner.is_empty() => {
                inner.iter_mut().for_each(|byte| *byte ^= 0x5a);
            }
            _ => return Err(DropReason::Truncated),
        }
        let padding = usize::from(datagram[datagram.len() - 1]);
        let end = datagram.len().checked_sub(padding + 1).filter(|end| *end >= HEAD);
        let end = end.ok_or(DropReason::Truncated)?;
        Ok(Stripped::Packet { place: HEAD..end, origin: Origin::Peer(self.peer) })
    }
}
