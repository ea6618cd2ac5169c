//! Either IP header: what the data path asks of a packet, whatever its version.
//!
//! Path of a packet: `core::outbound` and `core::inbound` → **`wire::ip`** → `ipv4` | `ipv6`.
//! One value for both families, so that everything behind it is written once; what only one of
//! them has stays in its own file.
//!
//! Source: RFC 791 §3.1, RFC 8200 §3; protocol numbers of IANA.

use core::fmt;
use core::net::IpAddr;

use crate::checksum::Sum;
use crate::{ipv4, ipv6};

/// Protocol number of ICMP over IPv4.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of ICMP over IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// What the first four bits of a packet say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Something else; not IP.
    Other(u8),
}

impl Version {
    /// Returns the version of `packet`, or `None` if there is not a single byte.
    pub const fn of(packet: &[u8]) -> Option<Self> {
        match packet.first() {
            None => None,
            Some(&first) => Some(match first >> 4 {
                4 => Self::V4,
                6 => Self::V6,
                other => Self::Other(other),
            }),
        }
    }
}

/// A parsed header of either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// IPv4, options counted.
    V4(ipv4::Header),
    /// IPv6, extension headers walked.
    V6(ipv6::Header),
}

impl Header {
    /// Returns the header of `packet`, which must be exactly one IP packet.
    ///
    /// # Errors
    ///
    /// Those of [`ipv4::Header::parse`] and [`ipv6::Header::parse`]; [`Malformed::Version`] where
    /// it is neither.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match Version::of(packet) {
            Some(Version::V6) => ipv6::Header::parse(packet).map(Self::V6),
            Some(Version::Other(version)) => Err(Malformed::Version { version }),
            Some(Version::V4) | None => ipv4::Header::parse(packet).map(Self::V4),
        }
    }

    /// Returns the length of everything in front of the transport, in bytes.
    pub const fn header_len(&self) -> usize {
        match self {
            Self::V4(header) => header.header_len,
            Self::V6(header) => header.header_len,
        }
    }

    /// Returns the protocol of what stands behind `header_len`.
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::V4(header) => header.protocol,
            Self::V6(header) => header.protocol,
        }
    }

    /// Returns how many hops are left.
    pub const fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(header) => header.hop_limit,
            Self::V6(header) => header.hop_limit,
        }
    }

    /// Returns the source address.
    pub const fn source(&self) -> IpAddr {
        match self {
            Self::V4(header) => IpAddr::V4(header.source),
            Self::V6(header) => IpAddr::V6(header.source),
        }
    }

    /// Returns the destination address.
    pub const fn destination(&self) -> IpAddr {
        match self {
            Self::V4(header) => IpAddr::V4(header.destination),
            Self::V6(header) => IpAddr::V6(header.destination),
        }
    }

    /// Returns whether routers must not fragment the packet: never over IPv6.
    pub const fn dont_fragment(&self) -> bool {
        match self {
            Self::V4(header) => header.dont_fragment(),
            Self::V6(_) => true,
        }
    }

    /// Returns whether this is a fragment, the first or a later one.
    pub const fn is_fragment(&self) -> bool {
        match self {
            Self::V4(header) => header.is_fragment(),
            Self::V6(header) => header.is_fragment(),
        }
    }

    /// Returns the sum of the pseudo-header of the transport, but for the length.
    pub const fn pseudo_header(&self) -> Sum {
        match self {
            Self::V4(header) => ipv4::pseudo_header(header, header.protocol),
            Self::V6(header) => ipv6::pseudo_header(header, header.protocol),
        }
    }
}

/// Takes one hop off a packet of either version.
///
/// Returns false, and leaves the packet alone, where it has none left to spend or is no packet.
pub fn take_hop(packet: &mut [u8]) -> bool {
    match Version::of(packet) {
        Some(Version::V4) => ipv4::take_hop(packet),
        Some(Version::V6) => ipv6::take_hop(packet),
        Some(Version::Other(_)) | None => false,
    }
}

/// Why bytes are not one IP packet. Carries the numbers an operator needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its header.
    Truncated {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// Of another version than expected.
    Version {
        /// Version found.
        version: u8,
    },
    /// The header says it is shorter than the shortest header. IPv4 only.
    HeaderLength {
        /// Length found, in bytes.
        header_len: usize,
    },
    /// Total length is more than what is there.
    TotalLengthTooLong {
        /// Total length found, in bytes.
        total_len: usize,
        /// Bytes there.
        have: usize,
    },
    /// Total length is less than what is there.
    TotalLengthTooShort {
        /// Total length found, in bytes.
        total_len: usize,
        /// Bytes there.
        have: usize,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { need, have } => {
                write!(f, "truncated: need {need} bytes, have {have}")
            }
            Self::Version { version } => write!(f, "version {version}, expected 4 or 6"),
            Self::HeaderLength { header_len } => {
                write!(f, "header length {header_len} bytes, expected at least 20")
            }
            Self::TotalLengthTooLong { total_len, have } => {
                write!(f, "total length {total_len} bytes, but only {have} are there")
            }
            Self::TotalLengthTooShort { total_len, have } => {
                write!(f, "total length {total_len} bytes, but {have} are there")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_upper_half_of_the_first_byte() {
        assert_eq!(Version::of(&[0x45]), Some(Version::V4));
        assert_eq!(Version::of(&[0x60, 0]), Some(Version::V6));
        assert_eq!(Version::of(&[0x54]), Some(Version::Other(5)));
        assert_eq!(Version::of(&[]), None);
    }

    #[test]
    fn what_is_no_ip_packet_is_named_by_its_version() {
        assert_eq!(Header::parse(&[0x54; 60]), Err(Malformed::Version { version: 5 }));
        assert_eq!(Header::parse(&[]), Err(Malformed::Truncated { need: 20, have: 0 }));
        assert_eq!(Header::parse(&[0x60]), Err(Malformed::Truncated { need: 40, have: 1 }));
        assert!(!take_hop(&mut [0x54; 60]));
    }
}
