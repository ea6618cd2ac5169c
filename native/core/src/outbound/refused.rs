//! Datagrams that the underlay refuses for their size: in fragments, or an answer to their sender.
//!
//! Path of a packet: `batch` → `io` → **`outbound::refused`** → `replies`.

use std::net::SocketAddr;

use tunneld_wire::ip::Version;
use tunneld_wire::{icmp, ip, ipv4, ipv6};

use super::{Outbound, must_be_told};
use crate::batch::SendBatch;
use crate::fib::Fib;

/// A datagram of the batch that the underlay refused for its size.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Number of its queue.
    pub queue: usize,
    /// Number of its train, and its own in the train.
    pub place: (usize, usize),
    /// Largest IP packet the underlay takes to that peer, in bytes.
    pub path_mtu_bytes: u32,
}

impl Outbound {
    /// Returns whether a datagram may leave in fragments: nobody would send the packet in it
    /// smaller for being told, or nobody can be told, as it is sealed. `place` are the numbers of its
    /// train and its own in the train.
    pub fn may_fragment(&self, fib: &Fib, queue: usize, place: (usize, usize)) -> bool {
        let Some(inner) = inner(&self.batch, fib, queue, place) else { return true };
        match Version::of(inner) {
            Some(Version::V4) => {
                ipv4::Header::parse(inner).is_ok_and(|header| !must_be_told(&header, inner.len()))
            }
            Some(Version::V6) => {
                ipv6::Header::parse(inner).is_ok_and(|header| !must_be_told(&header, inner.len()))
            }
            _ => false,
        }
    }

    /// Tells the sender of a packet that the underlay refused for its size what would fit.
    #[cold]
    pub fn answer_refused(&mut self, fib: &Fib, refused: &Refused, now_ns: u64) {
        let Some(settings) = fib.settings() else { return };
        let train = &self.batch.queues()[refused.queue].trains()[refused.place.0];
        let datagram_len =
            refused.path_mtu_bytes.saturating_sub(outer_headers_len(&train.endpoint));
        let way = &fib.adjacency(train.adjacency).way;
        let Some(inner) = inner(&self.batch, fib, refused.queue, refused.place) else { return };
        let least = if Version::of(inner) == Some(Version::V6) {
            <ipv6::Header as ip::Header>::MIN_MTU
        } else {
            <ipv4::Header as ip::Header>::MIN_MTU
        };
        let fits = way.largest_inner(datagram_len as usize).max(least);
        let next_hop_mtu_bytes = u16::try_from(fits).unwrap_or(u16::MAX);
        let error = icmp::Error::TooBig { next_hop_mtu_bytes };
        self.replies.push(error, settings, inner, now_ns, &self.counters);
    }
}

/// Returns the packet in a datagram of the batch, where it can still be read.
fn inner<'a>(
    batch: &'a SendBatch,
    fib: &Fib,
    queue: usize,
    (train, datagram): (usize, usize),
) -> Option<&'a [u8]> {
    let queue = &batch.queues()[queue];
    let way = &fib.adjacency(queue.trains()[train].adjacency).way;
    way.inner(queue.datagrams_from(train, datagram).next()?.payload)
}

/// Returns the length of the IP and the UDP header in front of a datagram, in bytes.
const fn outer_headers_len(endpoint: &SocketAddr) -> u32 {
    if endpoint.is_ipv4() { 28 } else { 48 }
}
