//! Datagrams of one batch, laid out one behind the other, ready to be sent.
//!
//! Path of a packet: `outbound` → **`batch`** → `io` → underlay.
//! The arena is made once. Neighbours of equal size and endpoint lie without a gap, as a send
//! train needs them.

use std::net::SocketAddrV4;

use crate::fib::AdjacencyId;

/// Most datagrams in a batch.
pub const MAX_DATAGRAMS: usize = 64;

/// Largest packet a TUN device hands over, in bytes: an IPv4 super-packet.
pub const MAX_PACKET_LEN: usize = 65_535;

/// Room for the largest packet and whatever an encapsulation puts around it, in bytes.
const MAX_SLOT_LEN: usize = MAX_PACKET_LEN + 512;

/// Small enough to stay in the second-level cache, large enough for a few super-packets.
const ARENA_LEN: usize = 6 * MAX_SLOT_LEN;

/// One datagram in the arena.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// The adjacency it goes by, in the FIB the batch was filled with.
    pub adjacency: AdjacencyId,
    /// Where to.
    pub endpoint: SocketAddrV4,
    /// Length of the inner packet in it, in bytes.
    pub inner_len: usize,
    start: usize,
    len: usize,
}

/// Datagrams to be sent together.
pub struct SendBatch {
    arena: Box<[u8]>,
    used: usize,
    datagrams: Vec<Datagram>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            datagrams: Vec::with_capacity(MAX_DATAGRAMS),
        }
    }
}

impl SendBatch {
    /// Returns whether one more packet of any size has room.
    pub fn has_room(&self) -> bool {
        self.datagrams.len() < MAX_DATAGRAMS && self.arena.len() - self.used >= MAX_SLOT_LEN
    }

    /// Returns the next slot, `len` bytes long, or `None` where there is no room for it.
    /// It is not part of the batch before [`push`](Self::push).
    pub(crate) fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.datagrams.len() == MAX_DATAGRAMS {
            return None;
        }
        self.arena[self.used..].get_mut(..len)
    }

    /// Takes the first `len` bytes of the slot into the batch.
    pub(crate) fn push(
        &mut self,
        adjacency: AdjacencyId,
        endpoint: SocketAddrV4,
        inner_len: usize,
        len: usize,
    ) {
        self.datagrams.push(Datagram { adjacency, endpoint, inner_len, start: self.used, len });
        self.used += len;
    }

    /// Returns what is to be sent, in order.
    pub fn datagrams(&self) -> &[Datagram] {
        &self.datagrams
    }

    /// Returns the bytes of a datagram of this batch.
    pub fn payload(&self, datagram: &Datagram) -> &[u8] {
        &self.arena[datagram.start..datagram.start + datagram.len]
    }

    /// Forgets what was to be sent.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.used = 0;
    }
}
