//! Adjacency: how packets for a peer, in one address family, leave and arrive.
//!
//! Path of a lease: `transaction` → **`adjacency`** in a `fib` → `outbound`, `inbound`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use tunneld_wire::ethernet::MacAddress;

use crate::counters::AdjacencyCounters;
use crate::encapsulation::Way;

/// What is put around an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing: the UDP payload is the inner packet (flannel's udp backend).
    Raw,
    /// A VXLAN and an Ethernet header.
    Vxlan {
        /// Inner Ethernet address of the peer.
        vtep_mac: MacAddress,
    },
}

impl Encapsulation {
    /// Reads what the control plane says: its name, and what it must know of the peer, each under
    /// a name of its own.
    ///
    /// # Errors
    ///
    /// [`Unreadable`]: the first thing that it cannot be.
    pub fn read(label: &str, mut of_peer: BTreeMap<String, String>) -> Result<Self, Unreadable> {
        let read = match label {
            "raw" => Self::Raw,
            "vxlan" => Self::Vxlan { vtep_mac: take(&mut of_peer, "vtep_mac", MacAddress::FORM)? },
            _ => return Err(Unreadable::new("encapsulation", label, "raw or vxlan")),
        };
        match of_peer.pop_first() {
            Some((name, value)) => Err(Unreadable { name, value, expected: "no such parameter" }),
            None => Ok(read),
        }
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vxlan { .. } => "vxlan",
        }
    }

    /// Returns what it knows of the peer, as [`read`](Self::read) takes it.
    pub fn of_peer(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Raw => Vec::new(),
            Self::Vxlan { vtep_mac } => vec![("vtep_mac", vtep_mac.to_string())],
        }
    }
}

/// What the control plane said of an encapsulation, and what can be none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Name of the parameter.
    pub name: String,
    /// What it says.
    pub value: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl Unreadable {
    fn new(name: &str, value: &str, expected: &'static str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), expected }
    }
}

/// Takes out a parameter and reads it.
fn take<T: FromStr>(
    of_peer: &mut BTreeMap<String, String>,
    name: &str,
    expected: &'static str,
) -> Result<T, Unreadable> {
    let value = of_peer.remove(name);
    let read = value.as_deref().and_then(|value| value.parse().ok());
    read.ok_or_else(|| Unreadable::new(name, value.as_deref().unwrap_or("None"), expected))
}

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
    /// What went through it.
    pub counters: Arc<AdjacencyCounters>,
}
