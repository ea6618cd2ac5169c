//! Datagrams of one batch, laid out one behind the other in trains, ready to be sent.
//!
//! Path of a packet: `outbound` → **`batch`** → `io` → underlay.
//! There is a queue for each socket, so that a flow keeps to one; its arena is made once.
//! Neighbours in a queue of equal size and adjacency lie without a gap and make a train, which
//! the kernel can take in one piece; a shorter one closes it. Nothing in a queue is reordered.
//!
//! Source: udp(7), UDP_SEGMENT: at most 64 segments (older kernels), 65,507 bytes in all.

use std::net::SocketAddr;
use std::ops::Range;

use crate::fib::AdjacencyId;

/// Most packets read into a batch, and most trains in a queue of it.
pub const MAX_TRAINS: usize = 64;

/// Most datagrams in a train.
pub const MAX_SEGMENTS: usize = 64;

/// Most bytes in a train: what one UDP datagram holds over IPv4. Over IPv6 it were 65,527.
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
    pub endpoint: SocketAddr,
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
    pub endpoint: SocketAddr,
    /// What to send.
    pub payload: &'a [u8],
}

/// Datagrams that leave by one socket.
pub struct Queue {
    arena: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            trains: Vec::with_capacity(MAX_TRAINS),
        }
    }
}

impl Queue {
    /// Returns what is to be sent, in order.
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Returns the bytes of a train of this queue.
    pub fn bytes(&self, train: &Train) -> &[u8] {
        &self.arena[train.start..train.start + train.len]
    }

    /// Returns the datagrams of this queue one by one, from datagram `first` of train `train` on.
    pub fn datagrams_from(&self, train: usize, first: usize) -> impl Iterator<Item = Datagram<'_>> {
        self.trains[train..].iter().enumerate().flat_map(move |(number, train)| {
            let first = if number == 0 { first } else { 0 };
            self.bytes(train)
                .chunks(train.segment_len)
                .skip(first)
                .map(|payload| Datagram { endpoint: train.endpoint, payload })
        })
    }
}

/// Datagrams to be sent together.
pub struct SendBatch {
    /// As many for IPv4 as paths, then as many for IPv6.
    queues: Box<[Queue]>,
    /// Bytes in all queues.
    used: usize,
    /// Trains in the queue that has most.
    longest: usize,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new(1)
    }
}

impl SendBatch {
    /// Returns an empty batch for that many sockets of each family, at least one.
    pub fn new(paths: usize) -> Self {
        let queues = std::iter::repeat_with(Queue::default).take(2 * paths.max(1));
        Self { queues: queues.collect(), used: 0, longest: 0 }
    }

    /// Returns the number of sockets of each family.
    pub const fn paths(&self) -> usize {
        self.queues.len() / 2
    }

    /// Returns the number of the queue for path `path` to `endpoint`.
    pub(crate) const fn queue_for(&self, endpoint: &SocketAddr, path: usize) -> usize {
        if endpoint.is_ipv4() { path } else { self.paths() + path }
    }

    /// Returns whether one more packet has room that is not to be segmented into smaller ones
    /// than fit a train.
    pub const fn has_room(&self) -> bool {
        self.longest < MAX_TRAINS - 1 && self.used + MAX_SLOT_LEN <= ARENA_LEN
    }

    /// Returns the next slot of a queue, `len` bytes long, or `None` where there is no room for
    /// it. It is not part of the batch before [`push`](Self::push).
    pub(crate) fn slot(&mut self, queue: usize, len: usize) -> Option<&mut [u8]> {
        let queue = &mut self.queues[queue];
        if queue.trains.len() == MAX_TRAINS {
            return None;
        }
        queue.arena[queue.used..].get_mut(..len)
    }

    /// Takes the first `len` bytes of the queue's slot into the batch.
    pub(crate) fn push(
        &mut self,
        queue: usize,
        adjacency: AdjacencyId,
        endpoint: SocketAddr,
        inner_len: usize,
        len: usize,
    ) {
        let queue = &mut self.queues[queue];
        let overhead = len - inner_len;
        match queue.trains.last_mut().filter(|train| train.takes(adjacency, overhead, len)) {
            Some(train) => {
                train.count += 1;
                train.len += len;
            }
            None => queue.trains.push(Train {
                adjacency,
                endpoint,
                segment_len: len,
                count: 1,
                overhead,
                start: queue.used,
                len,
            }),
        }
        queue.used += len;
        self.used += len;
        self.longest = self.longest.max(queue.trains.len());
    }

    /// Returns what is to be sent by each socket, those for IPv4 first.
    pub const fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Returns the datagrams of this batch one by one, queue after queue.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.queues.iter().flat_map(|queue| queue.datagrams_from(0, 0))
    }

    /// Forgets what was to be sent.
    pub fn clear(&mut self) {
        for queue in &mut self.queues {
            queue.trains.clear();
            queue.used = 0;
        }
        (self.used, self.longest) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
