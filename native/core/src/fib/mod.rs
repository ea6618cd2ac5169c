//! The forwarding information base: everything a data thread needs to know, as one value.
//!
//! Path of a lease: `transaction` → **`fib`** → swapped whole by `io` → `outbound`, `inbound`.
//! Built whole and never changed. One table per family, with the same targets.

mod ipv4_table;
mod ipv6_table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunneld_wire::ip::Version;

use crate::adjacency::Adjacency;
use crate::adjacency_id::AdjacencyId;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Arrival, Vtep};
use crate::prefix::Prefix;
use ipv4_table::Ipv4Table;
use ipv6_table::Ipv6Table;

/// How strictly the source of an arriving packet is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceCheck {
    /// The inner source must be leased by the host that sent the datagram.
    Strict,
    /// The datagram must come from a peer, and not from our own addresses.
    Loose,
    /// Nothing is checked.
    Off,
}

impl SourceCheck {
    /// Returns the check of that name.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Strict, Self::Loose, Self::Off].into_iter().find(|check| check.label() == label)
    }

    /// Returns the name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Loose => "loose",
            Self::Off => "off",
        }
    }
}

/// What the data path must know beside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How strictly sources are checked.
    pub source_check: SourceCheck,
    /// Largest packet the overlay device takes, in bytes.
    pub device_mtu_bytes: u16,
    /// Source address of the ICMP errors sent from here; `None`: the network has no IPv4.
    pub icmp_source: Option<Ipv4Addr>,
    /// Source address of the ICMPv6 errors sent from here; `None`: the network has no IPv6.
    pub icmp_source_v6: Option<Ipv6Addr>,
    /// What VXLAN must say to be for us; `None`: datagrams are inner packets.
    pub vtep: Option<Vtep>,
}

impl Settings {
    /// Returns whether this is the overlay address of this host.
    pub(crate) fn is_own_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.icmp_source == Some(address),
            IpAddr::V6(address) => self.icmp_source_v6 == Some(address),
        }
    }

    /// Returns whether packets of that family are forwarded at all.
    pub(crate) const fn check_family(&self, version: Version) -> Result<(), DropReason> {
        match version {
            Version::V4 if self.icmp_source.is_none() => Err(DropReason::Ipv4Disabled),
            Version::V6 if self.icmp_source_v6.is_none() => Err(DropReason::Ipv6Disabled),
            _ => Ok(()),
        }
    }
}

/// Where a packet for some address goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This host itself.
    Local,
    /// A peer.
    Adjacency(AdjacencyId),
}

/// Everything a data thread needs to know. Immutable.
#[derive(Debug)]
pub struct Fib {
    arrival: Option<(Settings, Arrival)>,
    ipv4: Ipv4Table,
    ipv6: Ipv6Table,
    /// By id.
    adjacencies: Box<[Option<Adjacency>]>,
    /// Sorted by address.
    endpoints: Box<[(IpAddr, AdjacencyId)]>,
}

impl Fib {
    /// Builds a FIB. The place of an adjacency is its id; `None` in `entries` is this host itself.
    pub fn build(
        settings: Option<Settings>,
        adjacencies: Vec<Option<Adjacency>>,
        entries: impl IntoIterator<Item = (Prefix, Option<AdjacencyId>)>,
    ) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for (prefix, id) in entries {
            let target = id.map_or(Target::Local, Target::Adjacency);
            match prefix.address() {
                IpAddr::V4(address) => ipv4.push((address, prefix.length(), target)),
                IpAddr::V6(address) => ipv6.push((address, prefix.length(), target)),
            }
        }
        let mut endpoints: Vec<_> = adjacencies
            .iter()
            .zip(0..)
            .filter_map(|(adjacency, id)| {
                let adjacency = adjacency.as_ref()?;
                let address = adjacency.parameters.endpoint.ip();
                Some((address, !adjacency.takes_plain(), AdjacencyId(id)))
            })
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup_by_key(|(address, ..)| *address);
        let endpoints = endpoints.into_iter().map(|(address, _, id)| (address, id));
        Self {
            arrival: settings.map(|settings| (settings, Arrival::new(settings.vtep))),
            ipv4: Ipv4Table::build(ipv4),
            ipv6: Ipv6Table::build(ipv6),
            adjacencies: adjacencies.into_boxed_slice(),
            endpoints: endpoints.collect(),
        }
    }

    /// Returns a FIB that holds nothing, as before the first commit.
    pub fn empty() -> Self {
        Self::build(None, Vec::new(), [])
    }

    /// Returns the settings, once there are some.
    pub fn settings(&self) -> Option<&Settings> {
        self.arrival.as_ref().map(|(settings, _)| settings)
    }

    /// Returns the settings, once there are some, and how datagrams arrive by them.
    pub fn arrival(&self) -> Option<(&Settings, &Arrival)> {
        self.arrival.as_ref().map(|(settings, arrival)| (settings, arrival))
    }

    /// Returns the target of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: impl Into<IpAddr>) -> Option<Target> {
        match address.into() {
            IpAddr::V4(address) => self.ipv4.lookup(address),
            IpAddr::V6(address) => self.ipv6.lookup(address),
        }
    }

    /// Returns the adjacency of that id, which a lookup in this FIB has named.
    ///
    /// # Panics
    ///
    /// There is none in this FIB.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> &Adjacency {
        match &self.adjacencies[id.0 as usize] {
            Some(adjacency) => adjacency,
            None => panic!("adjacency {} is not in this FIB", id.0),
        }
    }

    /// Returns an adjacency whose peer has this underlay address: a plain one, if there is one.
    pub fn by_endpoint(&self, address: IpAddr) -> Option<AdjacencyId> {
        let place = self.endpoints.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        Some(self.endpoints[place].1)
    }
}
