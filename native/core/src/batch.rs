//! Datagrams of one batch, laid out one behind the other in trains, ready to be sent.
//!
//! Path of a packet: `outbound` → **`batch`** → `io` → underlay.
//! The arena is made once. Neighbours of equal size and adjacency lie without a gap and make a
//! train, which the kernel can take in one piece; a shorter one closes it. Nothing is reordered.
//!
//! Source: udp(7), UDP_SEGMENT: at most 64 segments (older kernels), 65,507 bytes in all.

use std::net::SocketAddrV4;
use std::ops::Range;

use crate::fib::AdjacencyId;

/// Most packets read into a batch, and most trains in it.
pub const MAX_TRAINS: usize = 64;

/// Most datagrams in a train.
pub const MAX_SEGMENTS: usize = 64;

/// Most bytes in a train: what one UDP datagram holds over IPv4.
pub const MAX_TRAIN_LEN: usize = 65_507;

/// Largest packet a TUN device hands over, in bytes: an IPv4 super-packet.
pub const MAX_PACKET_LEN: usize = 65_535;

/// Room for the largest packet and whatever an encapsulation puts around it, in bytes.
const MAX_SLOT_LEN: usize = MAX_PACKET_LEN + 512;

/// Small enough to stay in the second-level cache, large enough for a few super-packets.
const ARENA_LEN: usize = 6 * MAX_SLOT_LEN;

/// Datagrams of equal size for one peer; only the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub struct Train {
    /// The adjacency it goes by, in the FIB the batch was filled with.
    pub adjacency: AdjacencyId,
    /// Where to.
    pub endpoint: SocketAddrV4,
    /// Length of each datagram but the last, in bytes.
    pub segment_len: usize,
    /// Number of datagrams.
    pub count: usize,
    /// What the encapsulation adds to each inner packet, in bytes.
    overhead: usize,
    start: usize,
    len: usize,
}

impl Train {
    /// Returns whether a datagram of `len` bytes may be the next one.
    fn takes(&self, adjacency: AdjacencyId, overhead: usize, len: usize) -> bool {
        self.adjacency == adjacency
            && self.overhead == overhead
            && len <= self.segment_len
            && self.len == self.count * self.segment_len
            && self.count < MAX_SEGMENTS
            && self.len + len <= MAX_TRAIN_LEN
    }

    /// Returns the length of the inner packets in some of its datagrams, in bytes.
    pub fn inner_len(&self, datagrams: &Range<usize>) -> usize {
        let end = (datagrams.end * self.segment_len).min(self.len);
        end - datagrams.start * self.segment_len - datagrams.len() * self.overhead
    }
}

/// One datagram in the arena.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Where to.
    pub endpoint: SocketAddrV4,
    /// What to send.
    pub payload: &'a [u8],
}

/// Datagrams to be sent together.
pub struct SendBatch {
    arena: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            trains: Vec::with_capacity(MAX_TRAINS),
        }
    }
}

impl SendBatch {
    /// Returns whether one more packet has room that is not to be segmented into smaller ones
    /// than fit a train.
    pub fn has_room(&self) -> bool {
        self.trains.len() < MAX_TRAINS - 1 && self.arena.len() - self.used >= MAX_SLOT_LEN
    }

    /// Returns the next slot, `len` bytes long, or `None` where there is no room for it.
    /// It is not part of the batch before [`push`](Self::push).
    pub(crate) fn slot(&mut self, len: usize) -> Option<&mut [u8]> {
        if self.trains.len() == MAX_TRAINS {
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
        let overhead = len - inner_len;
        match self.trains.last_mut().filter(|train| train.takes(adjacency, overhead, len)) {
            Some(train) => {
                train.count += 1;
                train.len += len;
            }
            None => self.trains.push(Train {
                adjacency,
                endpoint,
                segment_len: len,
                count: 1,
                overhead,
                start: self.used,
                len,
            }),
        }
        self.used += len;
    }

    /// Returns what is to be sent, in order.
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Returns the bytes of a train of this batch.
    pub fn bytes(&self, train: &Train) -> &[u8] {
        &self.arena[train.start..train.start + train.len]
    }

    /// Returns the datagrams of this batch one by one, from datagram `first` of train `train` on.
    pub fn datagrams_from(&self, train: usize, first: usize) -> impl Iterator<Item = Datagram<'_>> {
        self.trains[train..].iter().enumerate().flat_map(move |(number, train)| {
            let first = if number == 0 { first } else { 0 };
            self.bytes(train)
                .chunks(train.segment_len)
                .skip(first)
                .map(|payload| Datagram { endpoint: train.endpoint, payload })
        })
    }

    /// Returns the datagrams of this batch one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.datagrams_from(0, 0)
    }

    /// Forgets what was to be sent.
    pub fn clear(&mut self) {
        self.trains.clear();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests;
