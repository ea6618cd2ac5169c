//! A packet as coalescing sees it: which flow it is of, and whether it may be joined at all.

use std::net::Ipv4Addr;

use tunneld_wire::{ipv4, tcp, udp};

use super::Kinds;

/// What packets that must keep their order have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// Both ports, as they stand in the packet.
    ports: u32,
    protocol: u8,
}

impl Flow {
    /// Returns the flow of a packet that is no fragment, if it is TCP or UDP.
    pub(super) fn of(header: &ipv4::Header, packet: &[u8]) -> Option<Self> {
        if !matches!(header.protocol, ipv4::PROTOCOL_TCP | ipv4::PROTOCOL_UDP) {
            return None;
        }
        let ports = packet.get(header.header_len..)?.first_chunk::<4>()?;
        Some(Self {
            source: header.source,
            destination: header.destination,
            ports: u32::from_ne_bytes(*ports),
            protocol: header.protocol,
        })
    }

    /// Returns a number below `buckets`, a power of two.
    ///
    /// Source: Fibonacci hashing, Knuth, The Art of Computer Programming 3, §6.4.
    pub(super) const fn bucket(&self, buckets: usize) -> usize {
        let addresses = (self.source.to_bits() as u64) << 32 | self.destination.to_bits() as u64;
        let mixed = (addresses ^ (self.ports as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as usize & (buckets - 1)
    }
}

/// What decides whether a packet may be joined, and to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Whether it may be part of a super-packet at all.
    pub(super) may_be_joined: bool,
    pub(super) is_tcp: bool,
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
        headers_len: 0,
        payload_len: 0,
        sequence: 0,
        identification: 0,
        is_atomic: false,
        pushes: false,
        is_unfinished: false,
    };

    /// Reads a packet that is no fragment.
    pub(super) fn of(header: &ipv4::Header, packet: &[u8], kinds: Kinds) -> Self {
        // Options are in the way of the kernel's own segmentation; and a checksum of all ones,
        // though right, is not what segmentation would write.
        if header.header_len != ipv4::Header::LEN || header.checksum == 0xffff {
            return Self::SINGLE;
        }
        let common = Self {
            may_be_joined: true,
            identification: header.identification,
            is_atomic: header.dont_fragment(),
            ..Self::SINGLE
        };
        let transport = &packet[ipv4::Header::LEN..];
        match header.protocol {
            ipv4::PROTOCOL_TCP if kinds.tcp => Self::of_tcp(common, transport),
            ipv4::PROTOCOL_UDP if kinds.udp => Self::of_udp(common, transport),
            _ => None,
        }
        .unwrap_or(Self::SINGLE)
    }

    fn of_tcp(common: Self, segment: &[u8]) -> Option<Self> {
        let tcp = tcp::Header::parse(segment)?;
        let payload_len = segment.len() - tcp.header_len;
        let is_plain = tcp.flags & !tcp::PSH == tcp::ACK;
        (is_plain && payload_len > 0 && tcp.checksum != 0xffff).then_some(Self {
            is_tcp: true,
            headers_len: ipv4::Header::LEN + tcp.header_len,
            payload_len,
            sequence: tcp.sequence,
            pushes: tcp.flags & tcp::PSH != 0,
            ..common
        })
    }

    fn of_udp(common: Self, datagram: &[u8]) -> Option<Self> {
        let (header, payload) = udp::Header::parse(datagram).ok()?;
        let is_whole = usize::from(header.len) == datagram.len();
        // Without a checksum it must stay without; segmentation would give it one.
        (is_whole && !payload.is_empty() && header.checksum != 0).then_some(Self {
            headers_len: ipv4::Header::LEN + udp::Header::LEN,
            payload_len: payload.len(),
            ..common
        })
    }

    /// Returns whether this packet's headers differ from those of `head`, of the same flow, only
    /// in what segmentation writes anew.
    pub(super) fn has_same_headers(&self, other: &Self, packet: &[u8], head: &[u8]) -> bool {
        const NETWORK: usize = ipv4::Header::LEN;
        let is_same = |from: usize, to: usize| packet[from..to] == head[from..to];
        self.is_tcp == other.is_tcp
            && self.headers_len == other.headers_len
            // Type of service; flags; hop limit.
            && is_same(1, 2)
            && is_same(6, 9)
            && (!self.is_tcp
                // Acknowledgment and data offset; window; urgent pointer and options.
                || (is_same(NETWORK + 8, NETWORK + 13)
                    && is_same(NETWORK + 14, NETWORK + 16)
                    && is_same(NETWORK + 18, self.headers_len)))
    }

    /// Returns whether the transport checksum of `packet` is right, or will be.
    pub(super) fn verify(&self, packet: &[u8]) -> bool {
        self.is_unfinished
            || ipv4::Header::parse(packet).is_ok_and(|header| {
                let transport = &packet[header.header_len..];
                let sum = ipv4::pseudo_header(&header, header.protocol)
                    .with_u16(transport.len() as u16)
                    .with(transport);
                sum.fold() == 0xffff
            })
    }
}
