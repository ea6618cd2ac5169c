//! Datagrams of one batch, laid out one behind the other and joined to trains, ready to be sent.
//!
//! Path of a packet: `outbound` → **`batch`** → `io` → underlay.
//! There is a queue for each socket, so that a flow keeps to one; its arena is made once.
//! Datagrams of equal size for one adjacency make a train, which the kernel can take in one call;
//! a shorter one closes it. What goes elsewhere in between does not: a train lies in as many
//! pieces as it was interrupted. In a queue nothing for one adjacency is reordered.
//!
//! Source: udp(7), UDP_SEGMENT: at most 64 segments (older kernels), 65,507 bytes in all.

use std::net::SocketAddr;
use std::ops::Range;

use crate::adjacency::OuterDf;
use crate::adjacency_id::AdjacencyId;
use crate::segmentation::MAX_SEGMENTS;

/// Most packets read into a batch, and most trains in a queue of it.
pub const MAX_TRAINS: usize = 64;

/// Most bytes in a train: what one UDP datagram holds over IPv4. Over IPv6 it were 65,527.
pub const MAX_TRAIN_LEN: usize = 65_507;

/// Largest packet a TUN device hands over, in bytes. The kernel cuts IPv6 packets that would be
/// longer itself, as the device's `gso_max_size` stays at 65,536.
pub const MAX_PACKET_LEN: usize = 65_535;

/// Room for the largest packet and whatever an encapsulation puts around it, in bytes.
const MAX_SLOT_LEN: usize = MAX_PACKET_LEN + 512;

/// Small enough to stay in the second-level cache, large enough for a few super-packets.
const ARENA_LEN: usize = 6 * MAX_SLOT_LEN;

/// Queues for ESP: one of each family by the port of the lane, and one by that of encryption itself.
const ESP_QUEUES: usize = 4;

/// What a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It carries somebody's packet.
    Traffic,
    /// It carries a packet of this host's own kernel that says nothing about use: an answer to a
    /// peer's probe, for one.
    Quiet,
    /// It is a probe of ours: counted nowhere.
    Probe,
}

/// How a datagram leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// Whether it may be fragmented.
    pub df: OuterDf,
    /// What it is for.
    pub purpose: Purpose,
}

impl Passage {
    /// As most datagrams leave.
    pub const PLAIN: Self = Self { df: OuterDf::Kernel, purpose: Purpose::Traffic };
}

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
    /// How they leave.
    pub passage: Passage,
    /// Most datagrams it may have.
    most: usize,
    /// Its number in the queue.
    number: usize,
    /// Number of the queue.
    queue: usize,
    /// Bytes in all.
    len: usize,
    /// Numbers of its first and its last piece.
    pieces: (usize, usize),
}

impl Train {
    /// Returns whether a datagram of `len` bytes may be the next one.
    fn takes(&self, passage: Passage, len: usize) -> bool {
        self.passage == passage
            // What one probe meets on its way is nothing to another.
            && passage.purpose != Purpose::Probe
            && len <= self.segment_len
            && self.len == self.count * self.segment_len
            && self.count < self.most
            && self.len + len <= MAX_TRAIN_LEN
    }

    /// Returns the length of all its datagrams, in bytes.
    pub const fn len_bytes(&self) -> usize {
        self.len
    }
}

/// Datagrams of one train that lie in the arena without a gap.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    len: usize,
    /// Number of the train's next piece, once there is one.
    next: Option<usize>,
}

/// One datagram in the arena.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// Where to.
    pub endpoint: SocketAddr,
    /// What to send.
    pub payload: &'a [u8],
    /// How it leaves.
    pub df: OuterDf,
}

/// Datagrams that leave by one socket.
pub struct Queue {
    arena: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
    /// At most one for each packet read, and one more for each train.
    pieces: Vec<Piece>,
    /// Length of each inner packet in bytes, `MAX_SEGMENTS` places for each train.
    inner_lens: Box<[u16]>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            used: 0,
            trains: Vec::with_capacity(MAX_TRAINS),
            pieces: Vec::with_capacity(2 * MAX_TRAINS),
            inner_lens: vec![0; MAX_TRAINS * MAX_SEGMENTS].into_boxed_slice(),
        }
    }
}

impl Queue {
    /// Returns what is to be sent, in the order of the first datagrams.
    pub fn trains(&self) -> &[Train] {
        &self.trains
    }

    /// Returns the bytes of a train of this queue, piece by piece, each of whole datagrams.
    pub fn pieces(&self, train: &Train) -> impl Iterator<Item = &[u8]> {
        let first = self.pieces.get(train.pieces.0);
        std::iter::successors(first, |piece| self.pieces.get(piece.next?))
            .map(|piece| &self.arena[piece.start..piece.start + piece.len])
    }

    /// Returns the datagrams of this queue one by one, from datagram `first` of train `train` on.
    pub fn datagrams_from(&self, train: usize, first: usize) -> impl Iterator<Item = Datagram<'_>> {
        self.trains[train..].iter().enumerate().flat_map(move |(number, train)| {
            let first = if number == 0 { first } else { 0 };
            self.pieces(train)
                .flat_map(|piece| piece.chunks(train.segment_len))
                .skip(first)
                .map(|payload| Datagram { endpoint: train.endpoint, payload, df: train.passage.df })
        })
    }

    /// Takes `len` bytes behind those used as the next datagram for `adjacency`. `number` is the
    /// queue's own.
    fn push(
        &mut self,
        number: usize,
        adjacency: AdjacencyId,
        endpoint: &SocketAddr,
        passage: Passage,
        (inner_len, len): (usize, usize),
    ) {
        let (start, next) = (self.used, self.pieces.len());
        self.used += len;
        // Only the newest train of an adjacency may grow: what is for one peer keeps its order.
        let newest = self.trains.iter_mut().rev().find(|train| train.adjacency == adjacency);
        if let Some(train) = newest.filter(|train| train.takes(passage, len)) {
            self.inner_lens[train.number * MAX_SEGMENTS + train.count] = inner_len as u16;
            train.count += 1;
            train.len += len;
            let last = &mut self.pieces[train.pieces.1];
            if last.start + last.len == start {
                last.len += len;
                return;
            }
            last.next = Some(next);
            train.pieces.1 = next;
        } else {
            let new = self.trains.len();
            self.inner_lens[new * MAX_SEGMENTS] = inner_len as u16;
            self.trains.push(Train {
                adjacency,
                endpoint: *endpoint,
                segment_len: len,
                count: 1,
                passage,
                most: MAX_SEGMENTS,
                number: new,
                queue: number,
                len,
                pieces: (next, next),
            });
        }
        self.pieces.push(Piece { start, len, next: None });
    }

    /// Lets the newest train for `adjacency` grow no more if it goes elsewhere than `endpoint`.
    fn turn_to(&mut self, adjacency: AdjacencyId, endpoint: &SocketAddr) {
        let newest = self.trains.iter_mut().rev().find(|train| train.adjacency == adjacency);
        if let Some(train) = newest.filter(|train| train.endpoint != *endpoint) {
            train.most = train.count;
        }
    }

    /// Returns the length of the inner packets in some datagrams of a train, in bytes.
    fn inner_len(&self, train: &Train, datagrams: &Range<usize>) -> usize {
        let first = train.number * MAX_SEGMENTS;
        let lens = &self.inner_lens[first + datagrams.start..first + datagrams.end];
        lens.iter().map(|len| usize::from(*len)).sum()
    }

    fn clear(&mut self) {
        self.trains.clear();
        self.pieces.clear();
        self.used = 0;
    }
}

/// Datagrams to be sent together.
pub struct SendBatch {
    /// As many for IPv4 as paths, then as many for IPv6; then one of each for ESP, whose lane has one
    /// socket.
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
        let queues = std::iter::repeat_with(Queue::default).take(2 * paths.max(1) + ESP_QUEUES);
        Self { queues: queues.collect(), used: 0, longest: 0 }
    }

    /// Returns the number of sockets of each family, those of ESP not counted.
    pub const fn paths(&self) -> usize {
        (self.queues.len() - ESP_QUEUES) / 2
    }

    /// Returns the number of the first queue for ESP: the one over IPv4. Behind it come the one over
    /// IPv6, and both for what leaves by the port of encryption itself, whatever the lane.
    pub const fn first_for_esp(&self) -> usize {
        self.queues.len() - ESP_QUEUES
    }

    /// Returns the number of the queue for ESP to `endpoint`, where what comes next for `adjacency`
    /// goes. That may have changed with its keys: then it shares no train with what went before.
    /// `by_port`: it leaves by the port of encryption itself.
    pub(crate) fn esp_queue_for(
        &mut self,
        adjacency: AdjacencyId,
        endpoint: &SocketAddr,
        by_port: bool,
    ) -> usize {
        let first = self.first_for_esp() + if by_port { ESP_QUEUES / 2 } else { 0 };
        let number = first + usize::from(endpoint.is_ipv6());
        self.queues[number].turn_to(adjacency, endpoint);
        number
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
        passage: Passage,
        inner_len: usize,
        len: usize,
    ) {
        let (number, queue) = (queue, &mut self.queues[queue]);
        queue.push(number, adjacency, &endpoint, passage, (inner_len, len));
        self.used += len;
        self.longest = self.longest.max(queue.trains.len());
    }

    /// Returns the length of the inner packets in some datagrams of a train of this batch, in bytes.
    pub fn inner_len(&self, train: &Train, datagrams: &Range<usize>) -> usize {
        self.queues[train.queue].inner_len(train, datagrams)
    }

    /// Returns what is to be sent by each socket: those for IPv4 first, those for ESP last.
    pub const fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Returns the datagrams of this batch one by one, queue after queue.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.queues.iter().flat_map(|queue| queue.datagrams_from(0, 0))
    }

    /// Forgets what was to be sent.
    pub fn clear(&mut self) {
        self.queues.iter_mut().for_each(Queue::clear);
        (self.used, self.longest) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
