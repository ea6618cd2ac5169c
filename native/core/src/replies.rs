//! ICMP errors of one batch, ready to be sent.
//!
//! Path of a packet: `outbound` | `inbound` → **`replies`** → `io` → raw socket.
//! Has room for a burst of the rate limit; the buffer is made once.

use std::net::{IpAddr, Ipv4Addr};

use tunneld_wire::ip::Version;
use tunneld_wire::{icmp, icmpv6, ipv4, ipv6};

use crate::counters::WorkerCounters;
use crate::fib::Settings;
use crate::icmp_limit::{BURST, IcmpLimit};

const CAPACITY: usize = BURST as usize + 14;

/// Those over IPv6 are the longer ones, also without their IP header.
const MAX_LEN: usize = icmpv6::MAX_LEN;

struct Reply {
    destination: IpAddr,
    len: usize,
    buffer: [u8; MAX_LEN],
}

/// ICMP errors that are due, and the limit on them.
pub struct Replies {
    limit: IcmpLimit,
    slots: Box<[Reply]>,
    used: usize,
}

impl Default for Replies {
    fn default() -> Self {
        let destination = Ipv4Addr::UNSPECIFIED.into();
        let empty = || Reply { destination, len: 0, buffer: [0; MAX_LEN] };
        Self {
            limit: IcmpLimit::default(),
            slots: std::iter::repeat_with(empty).take(CAPACITY).collect(),
            used: 0,
        }
    }
}

impl Replies {
    /// Answers `offender` with `error`, unless the rules forbid it or the rate is used up. One
    /// limit holds for both families.
    #[cold]
    pub fn push(
        &mut self,
        error: icmp::Error,
        settings: &Settings,
        offender: &[u8],
        now_ns: u64,
        counters: &WorkerCounters,
    ) {
        let Some(to) = whom_to_tell(offender) else { return };
        let Some(slot) = self.slots.get_mut(self.used) else {
            counters.icmp_suppressed.add(1);
            return;
        };
        if !self.limit.take(now_ns) {
            counters.icmp_suppressed.add(1);
            return;
        }
        let buffer = &mut slot.buffer;
        (slot.destination, slot.len) = match (to, settings.icmp_source, settings.icmp_source_v6) {
            // The kernel puts in the address of the device it leaves by: the overlay's own is the
            // old broadcast address of the bridge, which containers of kernels before 5.14 take no
            // packet from (raw(7), RFC 1812 §4.3.2.4).
            (IpAddr::V4(to), Some(_), _) => {
                (to.into(), icmp::emit(error, Ipv4Addr::UNSPECIFIED, to, offender, buffer))
            }
            // Here the overlay's own is the anycast address of the subnet's routers, which may be
            // nobody's source (RFC 4291 §2.6); the kernel writes the whole header.
            (IpAddr::V6(to), _, Some(_)) => (to.into(), icmpv6::emit(error, offender, buffer)),
            _ => return,
        };
        self.used += 1;
    }

    /// Returns what is due with its destinations: over IPv4 whole packets, over IPv6 messages.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &[u8])> {
        self.slots[..self.used].iter().map(|reply| (reply.destination, &reply.buffer[..reply.len]))
    }

    /// Returns whether nothing is due.
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets what was due.
    pub const fn clear(&mut self) {
        self.used = 0;
    }
}

/// Returns the source of `offender`, if it may be told.
fn whom_to_tell(offender: &[u8]) -> Option<IpAddr> {
    match Version::of(offender)? {
        Version::V4 if icmp::may_answer(offender) => {
            ipv4::Header::parse(offender).map(|header| header.source.into()).ok()
        }
        Version::V6 if icmpv6::may_answer(offender) => {
            ipv6::Header::parse(offender).map(|header| header.source.into()).ok()
        }
        _ => None,
    }
}
