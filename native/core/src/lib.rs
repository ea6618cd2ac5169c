//! The decisions on every packet, as values without I/O, clock or thread.
//!
//! Path of a packet: TUN → `io` → **`core::outbound`** → `io` → underlay,
//! and underlay → `io` → **`core::inbound`** → `io` → TUN.
//! Path of a lease: `engine` (Python) → `py` → **`core::transaction`** → **`core::fib`**.
//!
//! Bytes come as slices, time as nanoseconds, the FIB as a reference; what goes out is written
//! into batches that the caller drains. One owner thread each, nothing shared but
//! counters, `packet_sizes`, and the `sad`.

#![forbid(unsafe_code)]

pub mod adjacency;
pub mod adjacency_id;
pub mod batch;
pub mod checksum_partial;
pub mod coalescing;
pub mod control;
pub mod counters;
pub mod drop_reason;
pub mod encapsulation;
pub mod fib;
pub mod flow;
pub mod icmp_limit;
pub mod inbound;
pub mod outbound;
pub mod packet_sizes;
pub mod path_mtu;
pub mod prefix;
pub mod probe;
pub mod refusals;
pub mod replies;
pub mod sad;
pub mod segmentation;
pub mod sidings;
pub mod transaction;
pub mod waiting;

#[cfg(test)]
mod testing;
