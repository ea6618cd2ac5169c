//! Descriptors and threads of the data path: the only crate that touches the kernel.
//!
//! Path of a packet: TUN → **`io`** → `core` → **`io`** → underlay, and back.
//! Each worker has a thread, or one for each direction, that runs every packet to its end: no queue
//! between threads, no lock and no allocation on a packet's way. What happens to a packet is decided
//! in `core`.

#![allow(clippy::disallowed_methods, reason = "this crate is where clock and threads belong")]

#[cfg(test)]
mod allocations;
mod aside;
mod clock;
mod data_thread;
mod descriptor;
mod duty;
mod engine;
mod errands;
mod error;
mod event;
mod eventfd;
mod inbound;
mod keying;
pub mod load;
mod marks;
mod meminfo;
mod mmsg;
mod offload;
mod offloads;
mod outbound;
mod path_mtu;
mod publish;
mod pulse;
mod raw_icmp;
mod reading;
mod surroundings;
mod thread_handle;
mod transmit;
mod tun;

pub use descriptor::UnderlaySockets;
pub use duty::Duty;
pub use engine::Engine;
pub use error::Error;
pub use event::Event;
pub use keying::{Encryption, Identities, KeyState, OwnSecurity, Security, Trusted};
pub use offload::{Offload, State as OffloadState};
pub use reading::{Heartbeat, Snapshot, WorkerReading};
pub use tunneld_core::probe::{Answer, Probe};
