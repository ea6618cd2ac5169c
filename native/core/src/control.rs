//! Messages of an encapsulation itself that came in one batch: the third thing that arrives, beside
//! packets for the device and errors for their senders.
//!
//! Path of a packet: underlay → `inbound` → **`control`** → `io` → whoever answers them.
//! Has room for a burst; the buffer is made once, and what it cannot take is dropped and counted.

use std::net::SocketAddr;

use crate::drop_reason::DropReason;

/// Messages kept of one batch.
const CAPACITY: usize = 64;

/// Longest message, in bytes; those of the handshake are shorter.
pub const MAX_LEN: usize = 256;

/// The messages of one batch.
pub struct Controls {
    slots: Box<[Slot]>,
    used: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    source: SocketAddr,
    len: usize,
    buffer: [u8; MAX_LEN],
}

impl Default for Controls {
    fn default() -> Self {
        let source = SocketAddr::from(([0; 4], 0));
        let empty = Slot { source, len: 0, buffer: [0; MAX_LEN] };
        Self { slots: vec![empty; CAPACITY].into_boxed_slice(), used: 0 }
    }
}

impl Controls {
    /// Keeps a message that came from `source`.
    ///
    /// # Errors
    ///
    /// It is longer than [`MAX_LEN`], or there is no room left.
    pub(crate) fn push(&mut self, source: SocketAddr, message: &[u8]) -> Result<(), DropReason> {
        if message.len() > MAX_LEN {
            return Err(DropReason::HandshakeLength);
        }
        let slot = self.slots.get_mut(self.used).ok_or(DropReason::HandshakeOverflow)?;
        (slot.source, slot.len) = (source, message.len());
        slot.buffer[..message.len()].copy_from_slice(message);
        self.used += 1;
        Ok(())
    }

    /// Returns the messages with the addresses they came from, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.slots[..self.used].iter().map(|slot| (slot.source, &slot.buffer[..slot.len]))
    }

    /// Forgets them.
    pub const fn clear(&mut self) {
        self.used = 0;
    }
}
