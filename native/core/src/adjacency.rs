//! Adjacency: how packets for a peer, in one address family, leave and arrive.
//!
//! Path of a lease: `transaction` → **`adjacency`** in a `fib` → `outbound`, `inbound`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::counters::AdjacencyCounters;
use crate::encapsulation::{Encapsulation, Meanwhile, Way};
use crate::sad::{Protected, Sad};

/// Who decides how large a datagram may be on its way, and whether it may be fragmented there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OuterDf {
    /// Not fragmented; what the kernel has heard of the path's MTU holds.
    #[default]
    Kernel,
    /// Not fragmented; a probe has shown more to pass than the kernel has heard, which is ignored.
    Probed,
    /// Fragmented by this host, to what the kernel has heard, and over IPv4 by any router: what
    /// cannot be found out otherwise passes so.
    Clear,
}

impl OuterDf {
    const ALL: [Self; 3] = [Self::Kernel, Self::Probed, Self::Clear];

    /// Returns the mode of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.label() == label)
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Probed => "probed",
            Self::Clear => "clear",
        }
    }
}

/// What the control plane says about an adjacency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// What is put around an inner packet.
    pub encapsulation: Encapsulation,
    /// Underlay address and port of the peer.
    pub endpoint: SocketAddr,
    /// Largest inner packet this adjacency carries, in bytes.
    pub mtu_bytes: u16,
    /// How its datagrams go about the MTU of their path.
    pub outer_df: OuterDf,
    /// What else is taken from the peer.
    pub meanwhile: Meanwhile,
}

/// An adjacency as the data path holds it.
#[derive(Debug, Clone)]
pub struct Adjacency {
    /// Its name, for events.
    pub name: Arc<str>,
    /// What the control plane says.
    pub parameters: Parameters,
    /// How packets leave, ready for use.
    pub way: Way,
    /// Who may send sealed packets although those for it leave plain.
    pub also: Option<Arc<Protected>>,
    /// What went through it.
    pub counters: Arc<AdjacencyCounters>,
}

impl Adjacency {
    /// Returns the adjacency of that name.
    pub fn new(
        name: Arc<str>,
        parameters: Parameters,
        way: Way,
        sad: Option<&Sad>,
        counters: Arc<AdjacencyCounters>,
    ) -> Self {
        let also = match (parameters.meanwhile, sad) {
            (Meanwhile::Sealed { key }, Some(sad)) => Some(sad.peer(key)),
            _ => None,
        };
        Self { name, parameters, way, also, counters }
    }

    /// Returns whether plain packets of the peer are taken.
    #[inline]
    pub fn takes_plain(&self) -> bool {
        self.way.is_plain() || self.parameters.meanwhile == Meanwhile::Plain
    }

    /// Returns the peer whose sealed packets are taken; `None`: there is none.
    pub fn takes_sealed_of(&self) -> Option<&Protected> {
        self.way.protected().or(self.also.as_deref())
    }
}
