//! Counters: written by one data thread each, read by anyone at any time.
//!
//! A cell has a single writer, so a load and a store do where others need a locked
//! read-modify-write. Cells of different writers never share a cache line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::drop_reason::DropReason;

/// A number that only rises, with a single writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises the counter. Only the one writer may call this.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Replaces the value. Only the one writer may call this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Returns the value.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Which way a thread moves packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// TUN to underlay.
    Outbound,
    /// Underlay to TUN.
    Inbound,
}

impl Direction {
    /// Returns the direction's name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What one worker thread counts beside its adjacencies.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// Batches handled.
    pub batches: Counter,
    /// Packets that came in.
    pub packets: Counter,
    /// Bytes that came in, outer headers not counted.
    pub bytes: Counter,
    /// ICMP errors sent.
    pub icmp_sent: Counter,
    /// ICMP errors that were due but not sent: over the rate, or refused by the kernel.
    pub icmp_suppressed: Counter,
    drops: [Counter; DropReason::ALL.len()],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            packets: Counter::default(),
            bytes: Counter::default(),
            icmp_sent: Counter::default(),
            icmp_suppressed: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl WorkerCounters {
    /// Returns the counter of one drop reason.
    pub fn drops(&self, reason: DropReason) -> &Counter {
        &self.drops[reason as usize]
    }
}

/// One direction of one adjacency, as one worker sees it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Traffic {
    /// Packets that went on.
    pub packets: Counter,
    /// Their bytes: inner packets, without any outer header.
    pub bytes: Counter,
    /// When the last one did, in nanoseconds of the monotonic clock; 0: never.
    pub last_ns: Counter,
    /// Packets among them that say nothing about use.
    pub quiet: Counter,
}

impl Traffic {
    /// Counts packets of `bytes` bytes in all at `now_ns`.
    pub fn count(&self, packets: usize, bytes: usize, now_ns: u64) {
        self.packets.add(packets as u64);
        self.bytes.add(bytes as u64);
        self.last_ns.set(now_ns);
    }
}

/// All traffic of one adjacency.
#[derive(Debug)]
pub struct AdjacencyCounters {
    workers: Box<[(Traffic, Traffic)]>,
    /// Packets sent for use when somebody last looked.
    looked_at: AtomicU64,
}

/// A reading of an adjacency's counters, summed over the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdjacencyReading {
    /// Packets sent to the peer.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets received from the peer.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// When the last one came, in nanoseconds of the monotonic clock.
    pub last_rx_ns: Option<u64>,
}

impl AdjacencyCounters {
    /// Returns counters at zero, with a cell per worker and direction.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Default::default()).collect(),
            looked_at: AtomicU64::new(0),
        }
    }

    /// Returns whether the peer has been sent to, for use, since the last call.
    pub fn take_use(&self) -> bool {
        let used = self.workers.iter().fold(0u64, |sum, (outbound, _)| {
            sum.wrapping_add(outbound.packets.read()).wrapping_sub(outbound.quiet.read())
        });
        self.looked_at.swap(used, Relaxed) != used
    }

    /// Returns what `worker`'s outbound thread counts.
    pub fn outbound(&self, worker: usize) -> &Traffic {
        &self.workers[worker].0
    }

    /// Returns what `worker`'s inbound thread counts.
    pub fn inbound(&self, worker: usize) -> &Traffic {
        &self.workers[worker].1
    }

    /// Returns the sums.
    pub fn read(&self) -> AdjacencyReading {
        let mut reading = AdjacencyReading::default();
        for (outbound, inbound) in &self.workers {
            reading.tx_packets += outbound.packets.read();
            reading.tx_bytes += outbound.bytes.read();
            reading.rx_packets += inbound.packets.read();
            reading.rx_bytes += inbound.bytes.read();
            let last_ns = inbound.last_ns.read();
            if last_ns > reading.last_rx_ns.unwrap_or(0) {
                reading.last_rx_ns = Some(last_ns);
            }
        }
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_different_writers_share_no_cache_line() {
        assert_eq!(align_of::<Traffic>() % 64, 0);
        assert_eq!(size_of::<Traffic>() % 64, 0);
        assert_eq!(size_of::<WorkerCounters>() % 128, 0);
    }

    #[test]
    fn a_reading_sums_over_workers_and_takes_the_latest_time() {
        let counters = AdjacencyCounters::new(2);
        counters.outbound(0).count(1, 100, 5);
        counters.outbound(1).count(1, 50, 6);
        counters.inbound(0).count(1, 10, 8);
        counters.inbound(1).count(1, 20, 7);
        let expected = AdjacencyReading {
            tx_packets: 2,
            tx_bytes: 150,
            rx_packets: 2,
            rx_bytes: 30,
            last_rx_ns: Some(8),
        };
        assert_eq!(counters.read(), expected);
    }

    #[test]
    fn use_is_told_once_and_answers_to_probes_are_none() {
        let counters = AdjacencyCounters::new(2);
        assert!(!counters.take_use());
        counters.outbound(1).count(1, 100, 5);
        assert_eq!([counters.take_use(), counters.take_use()], [true, false]);
        counters.outbound(0).count(3, 100, 5);
        counters.outbound(0).quiet.add(3);
        assert!(!counters.take_use());
    }

    #[test]
    fn a_silent_peer_was_never_heard() {
        assert_eq!(AdjacencyCounters::new(1).read().last_rx_ns, None);
    }
}
