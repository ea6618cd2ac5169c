//! Joining packets of a flow into super-packets, which the device takes as one.
//!
//! Path of a packet: `inbound` → **`coalescing`** → `io` → TUN.
//! Packets stay where they lie; a delivery lists them. Only what segmentation gives back exactly
//! is joined: with both transport checksums verified, at the end of the flow's newest delivery,
//! so that packets of one flow leave in the order they came. Nothing is held past the batch.
//!
//! Source: linux net/ipv4/tcp_offload.c, udp_offload.c and net/ipv6/ip6_offload.c (the kernel's own
//! rules), RFC 6864 §4.1 (the identification of a packet that may not be fragmented means nothing).

mod candidate;
mod super_packet;

use std::ops::{Deref, Range};

use tunneld_wire::ip;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};

use crate::adjacency_id::AdjacencyId;
use crate::segmentation::MAX_SEGMENTS;
use candidate::{Candidate, Flow};
pub use super_packet::Headers;

/// Largest super-packet, in bytes.
const MAX_LEN: usize = 65_535;

/// Room made at once; more is made when a batch needs it, and kept.
const CAPACITY: usize = 2_048;

const BUCKETS: usize = 256;
const NONE: u32 = u32::MAX;

/// What is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kinds {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// A packet in the receive memory, and the one behind it in its delivery.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    len: usize,
    vnet: VnetHeader,
    next: u32,
}

/// One write to the device: a packet, or several that go as a super-packet.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The peer it came from, where that is known.
    pub adjacency: Option<AdjacencyId>,
    /// Number of packets.
    pub count: usize,
    /// Bytes of all the packets, each with its headers.
    pub bytes: usize,
    first: u32,
    last: u32,
    /// The next older delivery whose flow is in the same bucket.
    older: u32,
    flow: Option<Flow>,
    head: Candidate,
    /// Whether another packet may be joined.
    is_joinable: bool,
    /// Whether the checksum of the first packet is known to be right.
    verified: bool,
    /// What the next packet's numbers must be.
    next: (u32, u16),
    pushed: bool,
}

/// What came of joining a packet to a delivery.
enum Outcome {
    Joined,
    /// A rule forbids it.
    Apart,
    /// The packet's own checksum is wrong: it goes alone, and nothing is joined to it.
    WrongChecksum,
}

/// The deliveries of a batch, and what joins packets to them.
pub struct Deliveries {
    kinds: Kinds,
    all: Vec<Delivery>,
    pieces: Vec<Piece>,
    /// The newest delivery of the flows of each bucket.
    newest: Box<[u32; BUCKETS]>,
    /// Older deliveries than this one are closed.
    barrier: usize,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self {
            kinds: Kinds::default(),
            all: Vec::with_capacity(CAPACITY),
            pieces: Vec::with_capacity(CAPACITY),
            newest: Box::new([NONE; BUCKETS]),
            barrier: 0,
        }
    }
}

/// What goes to the device, each flow in order of arrival.
impl Deref for Deliveries {
    type Target = [Delivery];

    fn deref(&self) -> &[Delivery] {
        &self.all
    }
}

impl Deliveries {
    /// Says what is to be joined from now on.
    pub const fn set_kinds(&mut self, kinds: Kinds) {
        self.kinds = kinds;
    }

    /// Adds the packet at `place` of `memory`, whose parsed header is `header`: to the newest
    /// delivery of its flow, or as a new one. The hop limit in `header` is the one it came with;
    /// `vnet` is what the device must be told if the packet goes alone.
    #[inline]
    pub fn push<H: ip::Header>(
        &mut self,
        memory: &[u8],
        place: Range<usize>,
        header: &H,
        adjacency: Option<AdjacencyId>,
        vnet: VnetHeader,
    ) {
        let packet = &memory[place.clone()];
        let piece = Piece { start: place.start, len: packet.len(), vnet, next: NONE };
        // What is a super-packet already goes as it came.
        let is_single = header.is_fragment() || vnet.gso != Gso::None;
        let mut candidate =
            if is_single { None } else { Candidate::of(header, packet, self.kinds) };
        if let Some(of_packet) = &candidate {
            // Most often the packet before is of the same flow.
            let newest = self.all.len().wrapping_sub(1);
            match self.join::<H>(newest, memory, packet, of_packet, adjacency, piece) {
                Outcome::Joined => return,
                Outcome::Apart => {}
                Outcome::WrongChecksum => candidate = None,
            }
        }
        let transport = (!header.is_fragment()).then(|| (header.header_len(), header.protocol()));
        self.push_apart::<H>(memory, transport, candidate, adjacency, piece);
    }

    /// Adds a packet that is not joined to the newest delivery of all. Of one that is no fragment,
    /// `transport` says where its transport starts, and of what protocol it is.
    #[inline(never)]
    fn push_apart<H: ip::Header>(
        &mut self,
        memory: &[u8],
        transport: Option<(usize, u8)>,
        mut candidate: Option<Candidate>,
        adjacency: Option<AdjacencyId>,
        piece: Piece,
    ) {
        let packet = &memory[piece.start..piece.start + piece.len];
        let mut flow = None;
        match transport {
            // Which flow it belongs to is not known: all are closed, to keep the order.
            None => self.barrier = self.all.len(),
            Some((header_len, protocol)) if self.kinds != Kinds::default() => {
                flow = Flow::of::<H>(packet, header_len, protocol);
            }
            Some(_) => {}
        }
        if let Some(number) = flow.as_ref().and_then(|flow| self.newest_of(flow)) {
            if let Some(of_packet) = &candidate {
                match self.join::<H>(number, memory, packet, of_packet, adjacency, piece) {
                    Outcome::Joined => return,
                    Outcome::Apart => {}
                    Outcome::WrongChecksum => candidate = None,
                }
            }
        }
        let candidate = candidate.unwrap_or(Candidate::SINGLE);
        let (number, place) = (self.all.len() as u32, self.pieces.len() as u32);
        let bucket = flow.as_ref().map(|flow| &mut self.newest[flow.bucket()]);
        let older = bucket.map_or(NONE, |newest| std::mem::replace(newest, number));
        self.all.push(Delivery {
            adjacency,
            count: 1,
            bytes: piece.len,
            first: place,
            last: place,
            older,
            flow,
            is_joinable: candidate.may_be_joined() && !candidate.pushes,
            verified: false,
            next: candidate.next_numbers(),
            pushed: candidate.pushes,
            head: candidate,
        });
        self.pieces.push(piece);
    }

    fn newest_of(&self, flow: &Flow) -> Option<usize> {
        let mut number = self.newest[flow.bucket()];
        while let Some(delivery) = self.all.get(number as usize) {
            if delivery.flow.as_ref() == Some(flow) {
                return Some(number as usize).filter(|number| *number >= self.barrier);
            }
            number = delivery.older;
        }
        None
    }

    /// Joins a packet to a delivery, if every rule allows it. No wrong checksum is verified twice:
    /// its delivery is closed, its packet is none to be joined any more.
    #[inline]
    fn join<H: ip::Header>(
        &mut self,
        number: usize,
        memory: &[u8],
        packet: &[u8],
        candidate: &Candidate,
        adjacency: Option<AdjacencyId>,
        piece: Piece,
    ) -> Outcome {
        let Some(delivery) = self.all.get_mut(number) else { return Outcome::Apart };
        if !delivery.takes(candidate, adjacency) {
            return Outcome::Apart;
        }
        let first = &self.pieces[delivery.first as usize];
        let head = &memory[first.start..first.start + first.len];
        if !candidate.has_same_headers::<H>(packet, head) {
            return Outcome::Apart;
        }
        // A checksum that is still to be finished is so in a super-packet as well.
        if !delivery.verified {
            delivery.verified = first.vnet.needs_checksum() || delivery.head.verify::<H>(head);
            if !delivery.verified {
                delivery.is_joinable = false;
                return Outcome::Apart;
            }
        }
        if !(piece.vnet.needs_checksum() || candidate.verify::<H>(packet)) {
            return Outcome::WrongChecksum;
        }
        let place = self.pieces.len() as u32;
        delivery.count += 1;
        delivery.bytes += piece.len;
        delivery.next = candidate.next_numbers();
        delivery.pushed = candidate.pushes;
        delivery.is_joinable =
            !candidate.pushes && candidate.payload_len() == delivery.head.payload_len();
        let last = std::mem::replace(&mut delivery.last, place);
        self.pieces[last as usize].next = place;
        self.pieces.push(piece);
        Outcome::Joined
    }

    /// Returns where the packets of a delivery lie, in order.
    pub fn packets(&self, delivery: &Delivery) -> impl Iterator<Item = Range<usize>> {
        self.singles(delivery).map(|(place, _)| place)
    }

    /// Returns where the packets of a delivery lie, in order, each with what the device must be
    /// told if it goes alone.
    pub fn singles(&self, delivery: &Delivery) -> impl Iterator<Item = (Range<usize>, VnetHeader)> {
        let mut number = delivery.first;
        std::iter::from_fn(move || {
            let piece = self.pieces.get(number as usize)?;
            number = piece.next;
            Some((piece.start..piece.start + piece.len, piece.vnet))
        })
    }

    /// Returns the headers of a super-packet of several, or `None` for a single packet. Behind
    /// them belong the packets' payloads.
    pub fn headers(&self, delivery: &Delivery, memory: &[u8]) -> Option<Headers> {
        if delivery.count == 1 {
            return None;
        }
        let head = &memory[self.packets(delivery).next()?];
        Some(Headers::join(&delivery.head, head, delivery.total_len(), delivery.pushed))
    }

    /// Forgets all deliveries.
    pub fn clear(&mut self) {
        self.all.clear();
        self.pieces.clear();
        self.newest.fill(NONE);
        self.barrier = 0;
    }
}

impl Delivery {
    /// Returns whether this is TCP.
    pub const fn is_tcp(&self) -> bool {
        self.head.is_tcp
    }

    /// Returns the length of the super-packet, in bytes.
    const fn total_len(&self) -> usize {
        self.bytes - (self.count - 1) * self.head.headers_len()
    }

    /// Returns whether `next` may follow here, as far as the numbers tell.
    fn takes(&self, next: &Candidate, adjacency: Option<AdjacencyId>) -> bool {
        self.is_joinable
            && next.may_be_joined()
            && self.adjacency == adjacency
            && next.payload_len() <= self.head.payload_len()
            && self.count < MAX_SEGMENTS
            && self.total_len() + next.payload_len() <= MAX_LEN
            && next.numbers() == self.next
    }
}

#[cfg(test)]
mod tests;
