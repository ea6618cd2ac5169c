//! Adjacency: how packets for a peer, in one address family, leave and arrive.
//!
//! Path of a lease: `transaction` → **`adjacency`** in a `fib` → `outbound`, `inbound`.

use std::net::SocketAddrV4;
use std::sync::Arc;

use crate::counters::AdjacencyCounters;

/// What is put around an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing: the UDP payload is the inner packet (flannel's udp backend).
    Raw,
}

impl Encapsulation {
    /// Returns the encapsulation of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        match label {
            "raw" => Some(Self::Raw),
            _ => None,
        }
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
        }
    }
}

/// What the control plane says about an adjacency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// What is put around an inner packet.
    pub encapsulation: Encapsulation,
    /// Underlay address and port of the peer.
    pub endpoint: SocketAddrV4,
    /// Largest inner packet this adjacency carries, in bytes.
    pub mtu_bytes: u16,
}

/// An adjacency as the data path holds it.
#[derive(Debug, Clone)]
pub struct Adjacency {
    /// Its name, for events.
    pub name: Arc<str>,
    /// What the control plane says.
    pub parameters: Parameters,
    /// What went through it.
    pub counters: Arc<AdjacencyCounters>,
}
