//! IPv6 header: parse, emit, walk the extension headers, take a hop.
//!
//! Path of a packet: `core::outbound` and `core::inbound` → `ip` → **`wire::ipv6`**.
//! A router reads no extension headers to forward; the walk only tells where the transport is,
//! and ends without an error where it cannot be told. No fragmentation and no reassembly.
//!
//! Source: RFC 8200 §3, §4; RFC 4302 §2.2 (the one length in 4-byte units); RFC 6275 §6.1,
//! RFC 7401 §5, RFC 5533 §5.1 (further headers of the common form).
//!
//! ```text
//! |Version| Traffic Class |           Flow Label                  |
//! |         Payload Length        |  Next Header  |   Hop Limit   |
//! |                    Source Address, 16 bytes                   |
//! |                 Destination Address, 16 bytes                 |
//! ```

use core::net::{IpAddr, Ipv6Addr};
use core::ops::Range;

use crate::checksum::Sum;
use crate::ecn::Ecn;
use crate::ip::{self, Malformed, Version};

const VERSION: u8 = 6;

const HOP_BY_HOP: u8 = 0;
/// Protocol number of a routing header.
pub const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 0x0001;

/// Most extension headers walked over: nobody sends as many, and none may cost more time.
const MAX_EXTENSIONS: usize = 8;

/// A parsed IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the header with its extension headers, in bytes, as far as they were walked.
    pub header_len: usize,
    /// Traffic class (DSCP and ECN) and flow label: the 28 bits behind the version.
    pub class_and_label: u32,
    /// Length of all behind the fixed header, in bytes.
    pub payload_len: u16,
    /// Hop limit.
    pub hop_limit: u8,
    /// Protocol of what stands behind `header_len`. An extension header's number where the walk
    /// had to end before it; of a fragment other than the first, what the first one holds.
    pub protocol: u8,
    /// Fragment offset and the bit for more, as they stand in the packet; 0: no fragment.
    pub fragment: u16,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Header {
    /// Length without extension headers, in bytes.
    pub const LEN: usize = 40;

    /// Where the hop limit stands.
    pub const HOP_LIMIT: usize = 7;

    /// Returns the header of `packet`, which must be exactly one IPv6 packet.
    ///
    /// # Errors
    ///
    /// The first [`Malformed`] of: truncated, version, payload length (as the total length).
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let have = packet.len();
        let Some(fixed) = packet.first_chunk::<{ Self::LEN }>() else {
            return Err(Malformed::Truncated { need: Self::LEN, have });
        };
        if fixed[0] >> 4 != VERSION {
            return Err(Malformed::Version { version: fixed[0] >> 4 });
        }
        let mut header = Self::of_fixed(fixed);
        let total_len = Self::LEN + usize::from(header.payload_len);
        if total_len > have {
            return Err(Malformed::TotalLengthTooLong { total_len, have });
        }
        if total_len < have {
            return Err(Malformed::TotalLengthTooShort { total_len, have });
        }
        if is_extension(header.protocol) {
            header.walk(packet);
        }
        Ok(header)
    }

    /// Reads the fixed header; nothing is walked over.
    #[inline]
    fn of_fixed(fixed: &[u8; Self::LEN]) -> Self {
        let [v0, v1, v2, v3, l0, l1, next_header, hop_limit, addresses @ ..] = fixed;
        let mut source = [0; 16];
        let mut destination = [0; 16];
        source.copy_from_slice(&addresses[..16]);
        destination.copy_from_slice(&addresses[16..]);
        Self {
            header_len: Self::LEN,
            class_and_label: u32::from_be_bytes([*v0 & 0x0f, *v1, *v2, *v3]),
            payload_len: u16::from_be_bytes([*l0, *l1]),
            hop_limit: *hop_limit,
            protocol: *next_header,
            fragment: 0,
            source: Ipv6Addr::from(source),
            destination: Ipv6Addr::from(destination),
        }
    }

    /// Moves `header_len` and `protocol` over the extension headers.
    ///
    /// It stops in front of one that is not all there, and of a routing header that is still to be
    /// followed: the transport's checksum then covers another destination.
    #[cold]
    fn walk(&mut self, packet: &[u8]) {
        for _ in 0..MAX_EXTENSIONS {
            let rest = &packet[self.header_len..];
            let Some([next_header, len, b2, b3]) = rest.first_chunk::<4>().copied() else { return };
            let len = match self.protocol {
                FRAGMENT => 8,
                AUTHENTICATION => (usize::from(len) + 2) * 4,
                protocol if is_extension(protocol) => (usize::from(len) + 1) * 8,
                _ => return,
            };
            let is_to_be_followed = self.protocol == ROUTING && b3 != 0;
            if len > rest.len() || is_to_be_followed {
                return;
            }
            if self.protocol == FRAGMENT {
                self.fragment = u16::from_be_bytes([b2, b3]) & (FRAGMENT_OFFSET | MORE_FRAGMENTS);
            }
            self.header_len += len;
            self.protocol = next_header;
            if self.is_later_fragment() {
                return;
            }
        }
    }

    /// Goes on behind the routing headers that the walk ended at.
    #[cold]
    fn followed(mut self, packet: &[u8]) -> Self {
        for _ in 0..MAX_EXTENSIONS {
            let rest = &packet[self.header_len..];
            let Some((len, destination)) = last_destination(rest) else { break };
            self.destination = destination;
            self.protocol = rest[0];
            self.header_len += len;
            self.walk(packet);
            if self.protocol != ROUTING {
                break;
            }
        }
        self
    }

    /// Returns the header as it goes on the wire, without extension headers.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let first = u32::from(VERSION) << 28 | self.class_and_label & 0x0fff_ffff;
        bytes[..4].copy_from_slice(&first.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        bytes[6] = self.protocol;
        bytes[Self::HOP_LIMIT] = self.hop_limit;
        bytes[8..24].copy_from_slice(&self.source.octets());
        bytes[24..].copy_from_slice(&self.destination.octets());
        bytes
    }

    /// Returns whether this is a fragment, the first or a later one.
    ///
    /// A fragment header around a whole packet makes none (RFC 6946).
    pub const fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    /// Returns whether this is a fragment other than the first.
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }
}

impl ip::Header for Header {
    type Address = Ipv6Addr;

    const VERSION: Version = Version::V6;
    const LEN: usize = Self::LEN;
    const MIN_MTU: usize = 1_280;
    const ADDRESSES: Range<usize> = 8..40;

    fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        Self::parse(packet)
    }

    #[inline]
    fn take_hop(packet: &mut [u8]) -> bool {
        take_hop(packet)
    }

    fn header_len(&self) -> usize {
        self.header_len
    }

    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn hop_limit(&self) -> u8 {
        self.hop_limit
    }

    fn ecn(&self) -> Ecn {
        Ecn::of((self.class_and_label >> 20) as u8)
    }

    fn set_ecn(packet: &mut [u8], ecn: Ecn) {
        // The traffic class lies across the first two bytes; its last bits in the second.
        if let Some(byte) = packet.get_mut(1) {
            *byte = *byte & !0x30 | (ecn as u8) << 4;
        }
    }

    fn source(&self) -> Ipv6Addr {
        self.source
    }

    fn destination(&self) -> Ipv6Addr {
        self.destination
    }

    fn is_routable(&self) -> bool {
        is_routable(self.source) && is_routable(self.destination)
    }

    fn has_right_checksum(&self, _packet: &[u8]) -> bool {
        true
    }

    fn dont_fragment(&self) -> bool {
        true
    }

    fn is_fragment(&self) -> bool {
        self.is_fragment()
    }

    fn pseudo_header(&self) -> Sum {
        pseudo_header(self, self.protocol)
    }

    #[inline]
    fn at_last_destination(&self, packet: &[u8]) -> Self {
        if self.protocol == ROUTING { self.followed(packet) } else { *self }
    }

    fn quoted_tcp(quoted: &[u8]) -> Option<(IpAddr, IpAddr, [u8; 4])> {
        // A header that says how much of the packet is there can be walked over as any other.
        let mut fixed = *quoted.first_chunk::<{ Self::LEN }>()?;
        let len = u16::try_from(quoted.len() - Self::LEN).ok()?;
        fixed[4..6].copy_from_slice(&len.to_be_bytes());
        let mut header = Self::of_fixed(&fixed);
        if is_extension(header.protocol) {
            header.walk(quoted);
        }
        let header = header.at_last_destination(quoted);
        let ports = quoted.get(header.header_len..)?.first_chunk()?;
        (header.protocol == ip::PROTOCOL_TCP && !header.is_fragment()).then_some((
            header.source.into(),
            header.destination.into(),
            *ports,
        ))
    }
}

/// Returns whether the kernel segments super-packets behind the extension headers of `network`,
/// which holds nothing behind them: hop-by-hop options, routing, and destination options.
///
/// Source: linux net/ipv6/ip6_offload.c, INET6_PROTO_GSO_EXTHDR.
pub fn are_segmented_behind(network: &[u8]) -> bool {
    let Some((fixed, mut rest)) = network.split_first_chunk::<{ Header::LEN }>() else {
        return false;
    };
    let mut protocol = fixed[6];
    while let [next_header, len, ..] = rest {
        let Some(behind) = rest.get((usize::from(*len) + 1) * 8..) else { return false };
        if !matches!(protocol, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            return false;
        }
        (protocol, rest) = (*next_header, behind);
    }
    rest.is_empty()
}

/// Returns the length in bytes of the routing header that `rest` begins with, and where it leads to
/// in the end, if its segments are whole addresses.
///
/// Source: RFC 8754 §2 (segment routing: the last one first), RFC 6275 §6.4 (mobility: there is
/// one), RFC 2460 §4.4 (type 0: the last one last).
fn last_destination(rest: &[u8]) -> Option<(usize, Ipv6Addr)> {
    let [_, len, kind, ..] = *rest.first_chunk::<4>()?;
    let number = match kind {
        4 => 0,
        0 | 2 => (usize::from(len) / 2).checked_sub(1)?,
        _ => return None,
    };
    let len = (usize::from(len) + 1) * 8;
    let address = rest.get(..len)?.get(8 + 16 * number..)?.first_chunk::<16>()?;
    Some((len, Ipv6Addr::from(*address)))
}

const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// Returns the sum of the pseudo-header of the transport, but for the length.
///
/// Source: RFC 8200 §8.1.
pub const fn pseudo_header(header: &Header, protocol: u8) -> Sum {
    Sum::new()
        .with_u128(header.source.to_bits())
        .with_u128(header.destination.to_bits())
        .with_u16(protocol as u16)
}

/// Takes one hop off a packet.
///
/// Returns false, and leaves the packet alone, where it has none left to spend (RFC 8200 §3) or is
/// shorter than a header.
pub fn take_hop(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<{ Header::LEN }>() else {
        return false;
    };
    if header[Header::HOP_LIMIT] <= 1 {
        return false;
    }
    header[Header::HOP_LIMIT] -= 1;
    true
}

/// Returns whether a router may pass on a packet from or to `address`: it stands for one host,
/// and beyond its own link.
///
/// Source: RFC 4291 §2.4, §2.5.2, §2.5.3, §2.5.6, §2.7.
pub const fn is_routable(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
