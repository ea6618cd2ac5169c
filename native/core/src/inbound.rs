//! Datagrams from the underlay on their way to the overlay device.
//!
//! Path of a packet: underlay → `io` → **`core::inbound`** → `io` → TUN.
//! Parse, check the source, check the destination, take a hop. Packets stay in the receive slot
//! they came in; accepted ones are listed, and leave together at the end of the batch.
//!
//! Source: RFC 1812 §5.2.2, §5.3.1; flannel's udp backend (one hop is taken at each end).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::{icmp, ipv4};

use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::fib::{AdjacencyId, Fib, Settings, SourceCheck, Target};
use crate::replies::Replies;

/// Most datagrams in a batch.
pub const MAX_DATAGRAMS: usize = 64;

/// A packet that goes to the overlay device.
#[derive(Debug, Clone, Copy)]
pub struct Delivery {
    /// The receive slot it lies in, from its first byte on.
    pub slot: usize,
    /// Its length in bytes.
    pub len: usize,
    /// What to tell the device about it.
    pub vnet: VnetHeader,
    /// The peer it came from, where that is known.
    adjacency: Option<AdjacencyId>,
}

/// The inbound half of a worker. After a batch: write, tell what became of it, [`clear`].
///
/// [`clear`]: Self::clear
pub struct Inbound {
    worker: usize,
    counters: Arc<WorkerCounters>,
    deliveries: Vec<Delivery>,
    replies: Replies,
}

impl Inbound {
    /// Returns the inbound half of `worker`, which counts into `counters` as their only writer.
    pub fn new(worker: usize, counters: Arc<WorkerCounters>) -> Self {
        Self {
            worker,
            counters,
            deliveries: Vec::with_capacity(MAX_DATAGRAMS),
            replies: Replies::default(),
        }
    }

    /// Takes one datagram, which lies in receive slot `slot`: to the deliveries, or to the drops.
    ///
    /// All datagrams of a batch need the same `fib`. `now_ns` is on the monotonic clock.
    pub fn handle(
        &mut self,
        fib: &Fib,
        slot: usize,
        outer_source: SocketAddrV4,
        datagram: &mut [u8],
        now_ns: u64,
    ) {
        self.counters.packets.add(1);
        self.counters.bytes.add(datagram.len() as u64);
        match self.accept(fib, *outer_source.ip(), datagram, now_ns) {
            Ok(adjacency) => self.deliveries.push(Delivery {
                slot,
                len: datagram.len(),
                vnet: VnetHeader::default(),
                adjacency,
            }),
            Err(reason) => self.counters.drops(reason).add(1),
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
        outer_source: Ipv4Addr,
        inner: &mut [u8],
        now_ns: u64,
    ) -> Result<Option<AdjacencyId>, DropReason> {
        let settings = fib.settings().ok_or(DropReason::NotConfigured)?;
        let header = parse(inner, settings)?;
        let adjacency = check_source(fib, settings, outer_source, header.source)?;
        if fib.lookup(header.destination) != Some(Target::Local) {
            return Err(DropReason::WrongDestination);
        }
        if !ipv4::take_hop(inner) {
            let (error, source) = (icmp::Error::TimeExceeded, settings.icmp_source);
            self.replies.push(error, source, &header, inner, now_ns, &self.counters);
            return Err(DropReason::HopLimitExceeded);
        }
        Ok(adjacency)
    }

    /// Returns what goes to the device, in order of arrival.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// Returns what is to be sent as ICMP.
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Returns this half's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Counts the delivery at `place` as taken by the device.
    pub fn delivered(&self, fib: &Fib, place: usize, now_ns: u64) {
        let delivery = &self.deliveries[place];
        if let Some(adjacency) = delivery.adjacency {
            let counters = &fib.adjacency(adjacency).counters;
            counters.inbound(self.worker).count(delivery.len, now_ns);
        }
    }

    /// Counts a delivery as dropped.
    pub fn refused(&self, reason: DropReason) {
        self.counters.drops(reason).add(1);
    }

    /// Makes room for the next batch.
    pub fn clear(&mut self) {
        self.deliveries.clear();
        self.replies.clear();
    }
}

/// Reads the inner header, each fault under its own reason.
fn parse(inner: &[u8], settings: &Settings) -> Result<ipv4::Header, DropReason> {
    if inner.len() > usize::from(settings.device_mtu_bytes) {
        return Err(DropReason::Oversized);
    }
    match Version::of(inner) {
        Some(Version::V4) => {}
        Some(Version::V6) => return Err(DropReason::Ipv6Disabled),
        Some(Version::Other(_)) => return Err(DropReason::BadVersion),
        None => return Err(DropReason::Empty),
    }
    let header = ipv4::Header::parse(inner).map_err(|malformed| match malformed {
        ipv4::Malformed::Truncated { .. } => DropReason::Truncated,
        ipv4::Malformed::Version { .. } => DropReason::BadVersion,
        ipv4::Malformed::HeaderLength { .. } => DropReason::BadHeaderLength,
        ipv4::Malformed::TotalLengthTooLong { .. } => DropReason::InnerLengthTooLong,
        ipv4::Malformed::TotalLengthTooShort { .. } => DropReason::InnerLengthTooShort,
    })?;
    if !ipv4::verify_checksum(&inner[..header.header_len]) {
        return Err(DropReason::BadHeaderChecksum);
    }
    Ok(header)
}

/// Returns the peer that a packet from `source` came by, if it may come that way.
///
/// On the strict way an honest packet costs one lookup; the endpoints are searched only to name
/// what is wrong. Ports are not compared: flannel's peers are known by address alone.
fn check_source(
    fib: &Fib,
    settings: &Settings,
    outer_source: Ipv4Addr,
    source: Ipv4Addr,
) -> Result<Option<AdjacencyId>, DropReason> {
    if settings.source_check == SourceCheck::Off {
        return Ok(fib.by_endpoint(outer_source));
    }
    let leased = fib.lookup(source);
    if let (SourceCheck::Strict, Some(Target::Adjacency(id))) = (settings.source_check, leased) {
        if *fib.adjacency(id).parameters.endpoint.ip() == outer_source {
            return Ok(Some(id));
        }
    }
    let peer = fib.by_endpoint(outer_source).ok_or(DropReason::UnknownPeer)?;
    match (leased, settings.source_check) {
        (Some(Target::Local), _) => Err(DropReason::SourceIsLocal),
        (_, SourceCheck::Loose | SourceCheck::Off) => Ok(Some(peer)),
        (None, SourceCheck::Strict) => Err(DropReason::SourceNotLeased),
        (Some(Target::Adjacency(_)), SourceCheck::Strict) => Err(DropReason::SourceOfOtherPeer),
    }
}

#[cfg(test)]
mod tests;
