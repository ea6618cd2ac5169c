//! Packet formats: parse, emit and checksum, as functions over byte slices.
//!
//! Path of a packet: TUN → `io` → `core` (with **`wire`**) → `io` → underlay.
//! No I/O, no clock, no allocation; hostile bytes lead to a typed error, never to a panic.

#![forbid(unsafe_code)]

pub mod checksum;
pub mod echo;
pub mod ecn;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
pub mod virtio_net_hdr;
pub mod vxlan;

#[cfg(test)]
mod seeded;
