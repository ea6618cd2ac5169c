//! Either IP header: what the data path asks of a packet, whatever its version.
//!
//! Path of a packet: `core::outbound` and `core::inbound` → **`wire::ip`** → `ipv4` | `ipv6`.
//! The version is looked at once; everything behind is written once, generic over the header. What
//! only one of them has stays in its own file.
//!
//! Source: RFC 791 §3.1, RFC 8200 §3; protocol numbers of IANA.

use core::fmt;
use core::net::IpAddr;
use core::ops::Range;

use crate::checksum::Sum;
use crate::ecn::Ecn;

/// Protocol number of ICMP over IPv4.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// Protocol number of ICMP over IPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// What a packet of this host's own begins with (RFC 1700).
pub(crate) const HOP_LIMIT: u8 = 64;

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

/// Returns the length that `packet` says it has, in bytes, where that can be one.
pub fn packet_len(packet: &[u8]) -> Option<usize> {
    let field = |place: usize| {
        let field = packet.get(place..)?.first_chunk::<2>()?;
        Some(usize::from(u16::from_be_bytes(*field)))
    };
    match Version::of(packet)? {
        Version::V4 => field(2).filter(|len| *len >= 20),
        Version::V6 => field(4).map(|len| 40 + len),
        Version::Other(_) => None,
    }
}

/// A parsed header of either version.
pub trait Header: Copy {
    /// An address of that version.
    type Address: Copy + Into<IpAddr>;

    /// Which version.
    const VERSION: Version;
    /// Smallest MTU of a link, in bytes (RFC 791 §3.2, RFC 8200 §5).
    const MIN_MTU: usize;
    /// Length without options and extension headers, in bytes.
    const LEN: usize;
    /// Where both addresses stand, the source first: right in front of the transport, where there
    /// are no options and extension headers.
    const ADDRESSES: Range<usize>;

    /// Returns the header of `packet`, which must be exactly one IP packet of that version.
    ///
    /// # Errors
    ///
    /// The first [`Malformed`].
    fn parse(packet: &[u8]) -> Result<Self, Malformed>;

    /// Takes one hop off a packet. Returns false, and leaves the packet alone, where it has none
    /// left to spend or is shorter than a header.
    fn take_hop(packet: &mut [u8]) -> bool;

    /// Returns the length of everything in front of the transport, in bytes.
    fn header_len(&self) -> usize;

    /// Returns the protocol of what stands behind `header_len`.
    fn protocol(&self) -> u8;

    /// Returns how many hops are left.
    fn hop_limit(&self) -> u8;

    /// Returns the congestion mark.
    fn ecn(&self) -> Ecn;

    /// Writes another congestion mark into a packet, which must be one of that version.
    fn set_ecn(packet: &mut [u8], ecn: Ecn);

    /// Returns the source address.
    fn source(&self) -> Self::Address;

    /// Returns the destination address.
    fn destination(&self) -> Self::Address;

    /// Returns whether a router may pass on packets from and to these addresses.
    fn is_routable(&self) -> bool;

    /// Returns whether the header's own checksum is right, where it has one.
    fn has_right_checksum(&self, packet: &[u8]) -> bool;

    /// Returns whether routers must not fragment the packet.
    fn dont_fragment(&self) -> bool;

    /// Returns whether this is a fragment, the first or a later one.
    fn is_fragment(&self) -> bool;

    /// Returns the sum of the pseudo-header of the transport, but for the length.
    fn pseudo_header(&self) -> Sum;

    /// Returns the header as the packet's last destination will see it: where it is still to go by
    /// others, which are listed in `packet`, `destination` is the last one, and `header_len` and
    /// `protocol` are those of the transport.
    #[must_use]
    fn at_last_destination(&self, packet: &[u8]) -> Self;

    /// Returns source, destination and ports of a TCP packet, of which `quoted` is the beginning.
    fn quoted_tcp(quoted: &[u8]) -> Option<(IpAddr, IpAddr, [u8; 4])>;
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
}
