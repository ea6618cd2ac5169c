//! Packets from the overlay device on their way to a peer.
//!
//! Path of a packet: TUN → `io` → **`core::outbound`** → `batch` → `io` → underlay.
//! One pass: parse once, look up once, decide hop limit and MTU once, then one copy into the
//! slot of the send batch, finished there. What cannot go on is counted and, where the sender
//! can be told, answered through `replies`.
//!
//! Source: RFC 1812 §5.2, §5.3.1; flannel's udp backend (one hop is taken at each end).

use std::sync::Arc;

use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::{icmp, ipv4};

use crate::adjacency::Encapsulation;
use crate::batch::SendBatch;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Encapsulate, Raw};
use crate::fib::{AdjacencyId, Fib, Settings, Target};
use crate::replies::Replies;

/// The outbound half of a worker. After a batch: send, tell what became of it, [`clear`].
///
/// [`clear`]: Self::clear
pub struct Outbound {
    worker: usize,
    counters: Arc<WorkerCounters>,
    batch: SendBatch,
    replies: Replies,
}

/// A packet whose header has been read.
struct Parsed<'a> {
    header: ipv4::Header,
    bytes: &'a [u8],
    vnet: VnetHeader,
}

impl Outbound {
    /// Returns the outbound half of `worker`, which counts into `counters` as their only writer.
    pub fn new(worker: usize, counters: Arc<WorkerCounters>) -> Self {
        Self { worker, counters, batch: SendBatch::default(), replies: Replies::default() }
    }

    /// Takes one packet as the device handed it over: into the batch, or to the drops.
    ///
    /// All packets of a batch need the same `fib`. `now_ns` is on the monotonic clock.
    pub fn handle(&mut self, fib: &Fib, vnet: VnetHeader, packet: &[u8], now_ns: u64) {
        self.counters.packets.add(1);
        self.counters.bytes.add(packet.len() as u64);
        if let Err(reason) = self.forward(fib, vnet, packet, now_ns) {
            self.counters.drops(reason).add(1);
        }
    }

    fn forward(
        &mut self,
        fib: &Fib,
        vnet: VnetHeader,
        bytes: &[u8],
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let settings = fib.settings().ok_or(DropReason::NotConfigured)?;
        match Version::of(bytes) {
            Some(Version::V4) => {}
            Some(Version::V6) => return Err(DropReason::Ipv6Disabled),
            _ => return Err(DropReason::Malformed),
        }
        let header = ipv4::Header::parse(bytes).map_err(|_| DropReason::Malformed)?;
        if vnet.gso != Gso::None {
            return Err(DropReason::UnexpectedGso);
        }
        let packet = Parsed { header, bytes, vnet };
        let adjacency = match fib.lookup(header.destination) {
            Some(Target::Adjacency(id)) => id,
            Some(Target::Local) => return Err(DropReason::OwnSubnet),
            None => {
                self.answer(settings, icmp::Error::NetUnreachable, &packet, now_ns);
                return Err(DropReason::NoRoute);
            }
        };
        match fib.adjacency(adjacency).parameters.encapsulation {
            Encapsulation::Raw => self.emit::<Raw>(fib, settings, adjacency, &packet, now_ns),
        }
    }

    /// Decides hop limit and MTU, and writes the datagram into the batch.
    fn emit<E: Encapsulate>(
        &mut self,
        fib: &Fib,
        settings: &Settings,
        id: AdjacencyId,
        packet: &Parsed<'_>,
        now_ns: u64,
    ) -> Result<(), DropReason> {
        let parameters = &fib.adjacency(id).parameters;
        if E::TAKES_HOP && packet.header.hop_limit <= 1 {
            self.answer(settings, icmp::Error::TimeExceeded, packet, now_ns);
            return Err(DropReason::HopLimitExceeded);
        }
        let inner_len = packet.bytes.len();
        if inner_len > usize::from(parameters.mtu_bytes) {
            if packet.header.dont_fragment() {
                let error =
                    icmp::Error::FragmentationNeeded { next_hop_mtu_bytes: parameters.mtu_bytes };
                self.answer(settings, error, packet, now_ns);
            }
            return Err(DropReason::TooBig);
        }
        let slot =
            self.batch.slot(E::HEAD + inner_len + E::TAIL).ok_or(DropReason::UnderlayRefused)?;
        let inner = &mut slot[E::HEAD..E::HEAD + inner_len];
        inner.copy_from_slice(packet.bytes);
        if packet.vnet.needs_checksum() {
            packet.vnet.finish_checksum(inner).map_err(|_| DropReason::Malformed)?;
        }
        if E::TAKES_HOP {
            ipv4::take_hop(inner);
        }
        let len = E::finish(slot);
        self.batch.push(id, parameters.endpoint, inner_len, len);
        Ok(())
    }

    fn answer(
        &mut self,
        settings: &Settings,
        error: icmp::Error,
        packet: &Parsed<'_>,
        now_ns: u64,
    ) {
        let (source, header) = (settings.icmp_source, &packet.header);
        self.replies.push(error, source, header, packet.bytes, now_ns, &self.counters);
    }

    /// Returns what is to be sent to the underlay.
    pub const fn batch(&self) -> &SendBatch {
        &self.batch
    }

    /// Returns what is to be sent as ICMP.
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Returns this half's counters.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Counts the datagram at `place` of the batch as sent.
    pub fn sent(&self, fib: &Fib, place: usize, now_ns: u64) {
        let datagram = &self.batch.datagrams()[place];
        let counters = &fib.adjacency(datagram.adjacency).counters;
        counters.outbound(self.worker).count(datagram.inner_len, now_ns);
    }

    /// Counts a datagram of the batch as dropped.
    pub fn refused(&self, reason: DropReason) {
        self.counters.drops(reason).add(1);
    }

    /// Makes room for the next batch.
    pub fn clear(&mut self) {
        self.batch.clear();
        self.replies.clear();
    }
}

#[cfg(test)]
mod tests;
