//! Datagrams from the underlay on their way to the overlay device.
//!
//! Path of a packet: underlay → `io` → **`core::inbound`** → `io` → TUN.
//! Split what the kernel joined, parse, check the source, check the destination, take a hop.
//! Packets stay in the receive memory; accepted ones are joined to super-packets where that loses
//! nothing, and leave together at the end of the batch.
//!
//! Source: RFC 1812 §5.2.2, §5.3.1; flannel's udp backend (one hop is taken at each end).

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use tunneld_wire::ecn::Ecn;
use tunneld_wire::ip::{Malformed, Version};
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::{icmp, ip, ipv4, ipv6};

use crate::checksum_partial::{self, Known};
use crate::coalescing::{Deliveries, Delivery, Kinds};
use crate::counters::WorkerCounters;
use crate::decapsulation::{self, Decapsulation};
use crate::drop_reason::DropReason;
use crate::encapsulation::{Encapsulate, Vxlan};
use crate::fib::{AdjacencyId, Fib, Settings, SourceCheck, Target};
use crate::packet_sizes::PacketSizes;
use crate::probe::{Answers, Mark};
use crate::replies::Replies;

/// The inbound half of a worker. After a batch: write, tell what became of it, [`clear`].
///
/// [`clear`]: Self::clear
pub struct Inbound {
    worker: usize,
    counters: Arc<WorkerCounters>,
    deliveries: Deliveries,
    replies: Replies,
    answers: Answers,
    decapsulation: Decapsulation,
    checked: Option<Checked>,
    sizes: Arc<PacketSizes>,
}

/// Addresses that were checked in this batch, and the peer of such packets.
struct Checked {
    addresses: [IpAddr; 3],
    adjacency: Option<AdjacencyId>,
}

/// What the underlay's header said of a message.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// Where it came from.
    pub source: IpAddr,
    /// The congestion mark of all its datagrams: the kernel joins none with others.
    pub ecn: Ecn,
}

impl From<SocketAddr> for Outer {
    fn from(source: SocketAddr) -> Self {
        Self { source: source.ip(), ecn: Ecn::NotEct }
    }
}

/// A datagram in the receive memory.
struct Arrival {
    outer: Outer,
    place: Range<usize>,
    /// What the kernel says of segments inside.
    inner_segment_len: Option<usize>,
    now_ns: u64,
}

impl Inbound {
    /// Returns the inbound half of `worker`, which counts into `counters` as their only writer.
    pub fn new(worker: usize, counters: Arc<WorkerCounters>) -> Self {
        let (deliveries, replies) = (Deliveries::default(), Replies::default());
        let decapsulation = Decapsulation::default();
        let (sizes, answers) = (Arc::default(), Answers::default());
        Self { worker, counters, deliveries, replies, answers, decapsulation, checked: None, sizes }
    }

    /// Cuts super-packets of connections as the outbound halves that share `sizes` heard.
    #[must_use]
    pub fn cutting_by(self, sizes: Arc<PacketSizes>) -> Self {
        Self { sizes, ..self }
    }

    /// Takes answers to probes with that mark.
    #[must_use]
    pub fn probing_as(self, mark: Mark) -> Self {
        Self { answers: Answers::to(mark), ..self }
    }

    /// Says what is joined to super-packets from now on.
    pub const fn set_coalescing(&mut self, kinds: Kinds) {
        self.deliveries.set_kinds(kinds);
    }

    /// Takes one message, which lies at `place` of the receive memory: datagrams of `segment_len`
    /// bytes where the kernel joined several, else one. Each goes to the deliveries, or to the
    /// drops.
    ///
    /// All messages of a batch need the same `fib` and the same memory, each a place of its own.
    /// `now_ns` is on the monotonic clock.
    pub fn handle(
        &mut self,
        fib: &Fib,
        outer: impl Into<Outer>,
        memory: &mut [u8],
        place: Range<usize>,
        segment_len: Option<usize>,
        now_ns: u64,
    ) {
        let outer = outer.into();
        self.counters.bytes.add(place.len() as u64);
        let head = match fib.settings() {
            Some(Settings { vtep: Some(_), .. }) => Vxlan::HEAD,
            _ => 0,
        };
        let step = split_len(&memory[place.clone()], segment_len, head);
        // Where the kernel's length is not that of datagrams, it is that of segments inside.
        let inner_segment_len = segment_len.filter(|len| *len < step);
        let (mut start, last) = (place.start, place.end);
        loop {
            let end = last.min(start + step);
            self.counters.packets.add(1);
            let arrival = Arrival { outer, place: start..end, inner_segment_len, now_ns };
            if let Err(reason) = self.accept(fib, memory, arrival) {
                self.counters.drops(reason).add(1);
            }
            start = end;
            if start == last {
                return;
            }
        }
    }

    /// Counts a datagram that did not fit its receive slot.
    pub fn truncated_by_kernel(&mut self) {
        self.counters.packets.add(1);
        self.counters.drops(DropReason::Oversized).add(1);
    }

    fn accept(
        &mut self,
        fib: &Fib,
        memory: &mut [u8],
        mut arrival: Arrival,
    ) -> Result<(), DropReason> {
        let settings = fib.settings().ok_or(DropReason::NotConfigured)?;
        let datagram = &memory[arrival.place.clone()];
        if let Some(vtep) = &settings.vtep {
            let inner = self.decapsulation.open(vtep, datagram)?;
            let start = arrival.place.start;
            arrival.place = start + inner.start..start + inner.end;
        }
        let version = Version::of(&memory[arrival.place.clone()]).ok_or(DropReason::Empty)?;
        settings.check_family(version)?;
        match version {
            Version::V4 => self.accept_as::<ipv4::Header>(fib, settings, memory, arrival),
            Version::V6 => self.accept_as::<ipv6::Header>(fib, settings, memory, arrival),
            Version::Other(_) => Err(DropReason::BadVersion),
        }
    }

    #[inline(never)]
    fn accept_as<H: ip::Header>(
        &mut self,
        fib: &Fib,
        settings: &Settings,
        memory: &mut [u8],
        arrival: Arrival,
    ) -> Result<(), DropReason> {
        let Arrival { outer, place, inner_segment_len, now_ns } = arrival;
        let packet = &mut memory[place.clone()];
        let header = parse::<H>(packet)?;
        let mtu = usize::from(settings.device_mtu_bytes);
        let adjacency = self.check(fib, settings, outer.source, &header)?;
        if outer.ecn.may_change_inner() {
            pass_mark_on(outer.ecn, &header, packet)?;
        }
        let may_be_answer = matches!(header.protocol(), ip::PROTOCOL_ICMP | ip::PROTOCOL_ICMPV6);
        if may_be_answer && self.answers.take(settings, &header, packet) {
            return Ok(());
        }
        let vnet = if settings.vtep.is_some() {
            let (segment_len, sizes) = (inner_segment_len, &*self.sizes);
            checksum_partial::prepare(&header, packet, Known { segment_len, mtu, sizes })?
        } else if H::take_hop(packet) {
            VnetHeader::default()
        } else {
            let error = icmp::Error::TimeExceeded;
            self.replies.push(error, settings, packet, now_ns, &self.counters);
            return Err(DropReason::HopLimitExceeded);
        };
        self.deliveries.push(memory, place, &header, adjacency, vnet);
        Ok(())
    }

    /// Returns the peer that a packet came by, if it may come that way and is for us. The packet
    /// before had mostly the same addresses.
    #[inline]
    fn check<H: ip::Header>(
        &mut self,
        fib: &Fib,
        settings: &Settings,
        outer_source: IpAddr,
        header: &H,
    ) -> Result<Option<AdjacencyId>, DropReason> {
        let addresses = [outer_source, header.source().into(), header.destination().into()];
        if let Some(checked) = self.checked.as_ref().filter(|known| known.addresses == addresses) {
            return Ok(checked.adjacency);
        }
        let adjacency = check_source(fib, settings, outer_source, header.source())?;
        if fib.lookup(header.destination()) != Some(Target::Local) {
            return Err(DropReason::WrongDestination);
        }
        self.checked = Some(Checked { addresses, adjacency });
        Ok(adjacency)
    }

    /// Returns what goes to the device.
    pub const fn deliveries(&self) -> &Deliveries {
        &self.deliveries
    }

    /// Returns what is to be sent as ICMP.
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Returns the answers to probes that came; they go no further.
    pub const fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    /// Returns this half's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Counts some packets of a delivery, `bytes` in all, as taken by the device.
    pub fn delivered(
        &self,
        fib: &Fib,
        delivery: &Delivery,
        packets: usize,
        bytes: usize,
        now_ns: u64,
    ) {
        if let Some(adjacency) = delivery.adjacency {
            let counters = &fib.adjacency(adjacency).counters;
            counters.inbound(self.worker).count(packets, bytes, now_ns);
        }
    }

    /// Counts packets of a delivery as dropped.
    pub fn refused(&self, reason: DropReason, packets: usize) {
        self.counters.drops(reason).add(packets as u64);
    }

    /// Makes room for the next batch.
    pub fn clear(&mut self) {
        self.deliveries.clear();
        self.replies.clear();
        self.decapsulation.clear();
        self.checked = None;
    }
}

/// Returns the length of the datagrams that a message of the kernel is to be cut into, at least 1;
/// in each, `head` bytes are in front of the inner packet.
///
/// The kernel says how long they are. But a peer whose kernel leaves cutting to a later device, as its
/// VXLAN does on a virtual link, sends a super-packet in one datagram, and with it comes the size of
/// the *inner* segments. Then the first inner packet is all there is: its length is the message's, to
/// the byte. Any other length says nothing about the datagrams behind it. One that lies so that it is
/// that very length costs its own sender the rest; the bytes behind are never looked at as frames, as
/// they may be what a container wrote. Datagrams of the raw encapsulation come from programs, which
/// cut themselves.
pub fn split_len(message: &[u8], segment_len: Option<usize>, head: usize) -> usize {
    let whole = message.len().max(1);
    let Some(segment_len) = segment_len.filter(|len| *len > 0) else { return whole };
    let first = message.get(head..).and_then(decapsulation::packet_len);
    let is_one = head > 0 && first.is_some_and(|first| head + first == message.len());
    if is_one { whole } else { segment_len }
}

/// Reads the inner header, each fault under its own reason.
fn parse<H: ip::Header>(inner: &[u8]) -> Result<H, DropReason> {
    let header = H::parse(inner).map_err(|malformed| match malformed {
        Malformed::Truncated { .. } => DropReason::Truncated,
        Malformed::Version { .. } => DropReason::BadVersion,
        Malformed::HeaderLength { .. } => DropReason::BadHeaderLength,
        Malformed::TotalLengthTooLong { .. } => DropReason::InnerLengthTooLong,
        Malformed::TotalLengthTooShort { .. } => DropReason::InnerLengthTooShort,
    })?;
    if !header.has_right_checksum(inner) {
        return Err(DropReason::BadHeaderChecksum);
    }
    Ok(header)
}

/// Marks a packet as the datagram around it was.
#[cold]
fn pass_mark_on<H: ip::Header>(
    outer: Ecn,
    header: &H,
    packet: &mut [u8],
) -> Result<(), DropReason> {
    let ecn = outer.around(header.ecn()).ok_or(DropReason::UnexpectedCongestionMark)?;
    if ecn != header.ecn() {
        H::set_ecn(packet, ecn);
    }
    Ok(())
}

/// Returns the peer that a packet from `source` came by, if it may come that way.
///
/// On the strict way an honest packet costs one lookup; the endpoints are searched only to name
/// what is wrong. Ports are not compared: flannel's peers are known by address alone.
#[inline]
fn check_source(
    fib: &Fib,
    settings: &Settings,
    outer_source: IpAddr,
    source: impl Into<IpAddr>,
) -> Result<Option<AdjacencyId>, DropReason> {
    if settings.source_check == SourceCheck::Off {
        return Ok(fib.by_endpoint(outer_source));
    }
    let source = source.into();
    let leased = fib.lookup(source);
    if let (SourceCheck::Strict, Some(Target::Adjacency(id))) = (settings.source_check, leased) {
        if fib.adjacency(id).parameters.endpoint.ip() == outer_source {
            return Ok(Some(id));
        }
    }
    judge_source(fib, settings.source_check, outer_source, (source, leased))
}

/// Returns what becomes of a packet whose source is not leased by the host it came from. A peer's
/// own address, which datagrams of its come from, is in no lease and yet nobody else's: answers to
/// containers that speak to the host itself come by the tunnel.
#[inline(never)]
fn judge_source(
    fib: &Fib,
    check: SourceCheck,
    outer_source: IpAddr,
    (source, leased): (IpAddr, Option<Target>),
) -> Result<Option<AdjacencyId>, DropReason> {
    let peer = fib.by_endpoint(outer_source).ok_or(DropReason::UnknownPeer)?;
    match (leased, check) {
        (Some(Target::Local), _) => Err(DropReason::SourceIsLocal),
        (_, SourceCheck::Loose | SourceCheck::Off) => Ok(Some(peer)),
        (None, SourceCheck::Strict) if source == outer_source => Ok(Some(peer)),
        (None, SourceCheck::Strict) => Err(DropReason::SourceNotLeased),
        (Some(Target::Adjacency(_)), SourceCheck::Strict) => Err(DropReason::SourceOfOtherPeer),
    }
}

#[cfg(test)]
mod tests;
