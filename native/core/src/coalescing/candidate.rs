//! A packet as coalescing sees it: which flow it is of, and whether it may be joined at all.

use std::net::IpAddr;

use tunneld_wire::checksum::Sum;
use tunneld_wire::ip::Version;
use tunneld_wire::{ip, ipv4, ipv6, tcp, udp};

use super::Kinds;

/// What packets that must keep their order have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// Source and destination; of IPv4 at the lower end.
    addresses: [[u64; 2]; 2],
    /// Both ports, as they stand in the packet.
    ports: u32,
    protocol: u8,
    is_v6: bool,
    bucket: u8,
}

impl Flow {
    /// Returns the flow of a packet that is no fragment, if it is TCP or UDP.
    pub(super) fn of<H: ip::Header>(header: &H, packet: &[u8]) -> Option<Self> {
        let protocol = header.protocol();
        if !matches!(protocol, ip::PROTOCOL_TCP | ip::PROTOCOL_UDP) {
            return None;
        }
        let ports = u32::from_ne_bytes(*packet.get(header.header_len()..)?.first_chunk()?);
        let addresses = [halves(header.source()), halves(header.destination())];
        let [[s0, s1], [d0, d1]] = addresses;
        let mixed = (s0 ^ s1).rotate_left(32) ^ d0 ^ d1 ^ u64::from(ports).wrapping_mul(SPREAD);
        let bucket = (mixed.wrapping_mul(SPREAD) >> 40) as u8;
        Some(Self { addresses, ports, protocol, is_v6: H::VERSION == Version::V6, bucket })
    }

    /// Returns a number below 256.
    pub(super) const fn bucket(&self) -> usize {
        self.bucket as usize
    }
}

/// An odd number whose multiples spread well. Source: Knuth, The Art of Computer Programming 3, §6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

const fn halves(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => [0, address.to_bits() as u64],
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    }
}

/// What decides whether a packet may be joined, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Whether it may be part of a super-packet at all.
    pub(super) may_be_joined: bool,
    pub(super) is_tcp: bool,
    pub(super) is_v6: bool,
    /// Length of both headers, in bytes.
    pub(super) headers_len: usize,
    pub(super) payload_len: usize,
    pub(super) sequence: u32,
    pub(super) identification: u16,
    /// Whether it may not be fragmented, so that its identification means nothing.
    pub(super) is_atomic: bool,
    /// Whether the sender wants it delivered at once: nothing is joined behind it.
    pub(super) pushes: bool,
    /// Whether its checksum is still to be finished, as that of a super-packet is in any case.
    pub(super) is_unfinished: bool,
}

impl Candidate {
    /// A packet that goes alone.
    pub(super) const SINGLE: Self = Self {
        may_be_joined: false,
        is_tcp: false,
        is_v6: false,
        headers_len: 0,
        payload_len: 0,
        sequence: 0,
        identification: 0,
        is_atomic: false,
        pushes: false,
        is_unfinished: false,
    };

    /// Reads a packet that is no fragment.
    pub(super) fn of<H: ip::Header>(header: &H, packet: &[u8], kinds: Kinds) -> Self {
        // Options and extension headers are in the way of the kernel's own segmentation; and a
        // checksum of all ones, though right, is not what segmentation would write.
        let is_v6 = H::VERSION == Version::V6;
        if header.header_len() != H::LEN || (!is_v6 && packet[10..12] == [0xff; 2]) {
            return Self::SINGLE;
        }
        let identification = if is_v6 { 0 } else { u16::from_be_bytes([packet[4], packet[5]]) };
        let is_atomic = header.dont_fragment();
        let common = Self { may_be_joined: true, is_v6, identification, is_atomic, ..Self::SINGLE };
        let transport = &packet[H::LEN..];
        match header.protocol() {
            ip::PROTOCOL_TCP if kinds.tcp => Self::of_tcp(common, transport),
            ip::PROTOCOL_UDP if kinds.udp => Self::of_udp(common, transport),
            _ => None,
        }
        .unwrap_or(Self::SINGLE)
    }

    /// Returns the length of the IP header, in bytes.
    pub(super) const fn network_len(&self) -> usize {
        if self.is_v6 { ipv6::Header::LEN } else { ipv4::Header::LEN }
    }

    fn of_tcp(common: Self, segment: &[u8]) -> Option<Self> {
        let tcp = tcp::Header::parse(segment)?;
        let payload_len = segment.len() - tcp.header_len;
        let is_plain = tcp.flags & !tcp::PSH == tcp::ACK;
        (is_plain && payload_len > 0 && tcp.checksum != 0xffff).then_some(Self {
            is_tcp: true,
            headers_len: common.network_len() + tcp.header_len,
            payload_len,
            sequence: tcp.sequence,
            pushes: tcp.flags & tcp::PSH != 0,
            ..common
        })
    }

    fn of_udp(common: Self, datagram: &[u8]) -> Option<Self> {
        let (header, payload) = udp::Header::parse(datagram).ok()?;
        let is_whole = usize::from(header.len) == datagram.len();
        // Without a checksum it must stay without; segmentation would give it one. Over IPv6 the
        // receiver drops it, which is none of our business (RFC 8200 §8.1).
        (is_whole && !payload.is_empty() && header.checksum != 0).then_some(Self {
            headers_len: common.network_len() + udp::Header::LEN,
            payload_len: payload.len(),
            ..common
        })
    }

    /// Returns whether this packet's headers differ from those of `head`, of the same flow, only
    /// in what segmentation writes anew.
    pub(super) fn has_same_headers(&self, other: &Self, packet: &[u8], head: &[u8]) -> bool {
        let is_same = |from: usize, to: usize| packet[from..to] == head[from..to];
        let network_len = self.network_len();
        let is_same_network = if self.is_v6 {
            // Version, traffic class and flow label; hop limit.
            is_same(0, 4) && is_same(7, 8)
        } else {
            // Type of service; flags; hop limit.
            is_same(1, 2) && is_same(6, 9)
        };
        self.is_tcp == other.is_tcp
            && self.is_v6 == other.is_v6
            && self.headers_len == other.headers_len
            && is_same_network
            && (!self.is_tcp
                // Acknowledgment and data offset; window; urgent pointer and options.
                || (is_same(network_len + 8, network_len + 13)
                    && is_same(network_len + 14, network_len + 16)
                    && is_same(network_len + 18, self.headers_len)))
    }

    /// Returns whether the transport checksum of `packet` is right, or will be.
    ///
    /// The addresses of the pseudo-header stand right in front of the transport and are summed
    /// with it.
    pub(super) fn verify(&self, packet: &[u8]) -> bool {
        let (addresses, protocol) = if self.is_v6 { (8, packet[6]) } else { (12, packet[9]) };
        self.is_unfinished
            || Sum::new()
                .with_u16(protocol.into())
                .with_u16((packet.len() - self.network_len()) as u16)
                .with(&packet[addresses..])
                .fold()
                == 0xffff
    }
}
