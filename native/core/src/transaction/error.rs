//! Why a change was refused: the item, the value, what was expected.

use std::fmt;
use std::net::IpAddr;

use tunneld_wire::ethernet::MacAddress;

use crate::prefix::Prefix;

/// Why a change was refused. Nothing of it took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// An adjacency without a name, or with the name of the local target.
    BadName {
        /// The name found.
        name: String,
    },
    /// An MTU below what every link must carry, of IPv4 or of IPv6.
    MtuTooSmall {
        /// What has it.
        item: String,
        /// The value found.
        mtu_bytes: u16,
        /// The smallest one.
        min_bytes: u16,
    },
    /// An address that does not stand for one host.
    NotUnicast {
        /// What has it.
        item: String,
        /// Which of its fields.
        field: &'static str,
        /// The value found.
        address: IpAddr,
    },
    /// An Ethernet address that does not stand for one station.
    NoStation {
        /// What has it.
        item: String,
        /// Which of its fields.
        field: &'static str,
        /// The value found.
        mac: MacAddress,
    },
    /// Port 0 cannot be sent to.
    PortZero {
        /// The adjacency that has it.
        adjacency: String,
    },
    /// VXLAN to a peer, where the settings say nothing of this end.
    NoVtep {
        /// The adjacency.
        adjacency: String,
    },
    /// ESP to a peer, where the engine was made without encryption.
    NoEncryption {
        /// The adjacency.
        adjacency: String,
    },
    /// The same thing twice in one change.
    NamedTwice {
        /// What it is.
        item: String,
    },
    /// An entry leads to an adjacency that is not there after the change.
    UnknownTarget {
        /// The entry.
        prefix: Prefix,
        /// Where it was to lead.
        target: String,
    },
    /// An adjacency was to go, but entries lead to it.
    StillInUse {
        /// The adjacency.
        adjacency: String,
        /// How many entries lead to it after the change.
        uses: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { name } => {
                write!(f, "adjacency {name:?}: its name must be neither empty nor \"local\"")
            }
            Self::MtuTooSmall { item, mtu_bytes, min_bytes } => {
                write!(f, "{item}: MTU {mtu_bytes}, expected at least {min_bytes} bytes")
            }
            Self::NotUnicast { item, field, address } => {
                write!(f, "{item}: {field} {address}, expected the address of one host")
            }
            Self::NoStation { item, field, mac } => {
                write!(f, "{item}: {field} {mac}, expected the address of one station")
            }
            Self::PortZero { adjacency } => {
                write!(f, "adjacency {adjacency}: port 0, expected 1 to 65535")
            }
            Self::NoVtep { adjacency } => {
                write!(
                    f,
                    "adjacency {adjacency}: encapsulation vxlan, expected settings with a vtep: put them with it"
                )
            }
            Self::NoEncryption { adjacency } => {
                write!(
                    f,
                    "adjacency {adjacency}: encapsulation esp, expected an engine with encryption: \
                     make it with an identity"
                )
            }
            Self::NamedTwice { item } => {
                write!(f, "{item}: put twice in one change, expected once")
            }
            Self::UnknownTarget { prefix, target } => {
                write!(f, "entry {prefix}: no adjacency is named {target:?}; put it with the entry")
            }
            Self::StillInUse { adjacency, uses } => {
                write!(
                    f,
                    "adjacency {adjacency}: still in use, entries that lead to it: {uses}; drop them too"
                )
            }
        }
    }
}

impl std::error::Error for Error {}
