//! ICMP errors of one batch, ready to be sent.
//!
//! Path of a packet: `outbound` | `inbound` → **`replies`** → `io` → raw socket.
//! Has room for a burst of the rate limit; the buffer is made once.

use std::net::Ipv4Addr;

use tunneld_wire::{icmp, ipv4};

use crate::counters::WorkerCounters;
use crate::icmp_limit::{BURST, IcmpLimit};

const CAPACITY: usize = BURST as usize + 14;

struct Reply {
    destination: Ipv4Addr,
    len: usize,
    buffer: [u8; icmp::MAX_LEN],
}

/// ICMP errors that are due, and the limit on them.
pub struct Replies {
    limit: IcmpLimit,
    slots: Box<[Reply]>,
    used: usize,
}

impl Default for Replies {
    fn default() -> Self {
        let empty =
            || Reply { destination: Ipv4Addr::UNSPECIFIED, len: 0, buffer: [0; icmp::MAX_LEN] };
        Self {
            limit: IcmpLimit::default(),
            slots: std::iter::repeat_with(empty).take(CAPACITY).collect(),
            used: 0,
        }
    }
}

impl Replies {
    /// Answers `offender` with `error`, unless the rules forbid it or the rate is used up.
    pub fn push(
        &mut self,
        error: icmp::Error,
        source: Ipv4Addr,
        header: &ipv4::Header,
        offender: &[u8],
        now_ns: u64,
        counters: &WorkerCounters,
    ) {
        if !icmp::may_answer(header, offender) {
            return;
        }
        let Some(slot) = self.slots.get_mut(self.used) else {
            counters.icmp_suppressed.add(1);
            return;
        };
        if !self.limit.take(now_ns) {
            counters.icmp_suppressed.add(1);
            return;
        }
        slot.destination = header.source;
        slot.len = error.emit(source, header.source, offender, &mut slot.buffer);
        self.used += 1;
    }

    /// Returns what is due: whole IPv4 packets with their destinations.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, &[u8])> {
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
