//! A packet as coalescing sees it: which flow it is of, and whether it may be joined at all.

use tunneld_wire::checksum::Sum;
use tunneld_wire::ip::Version;
use tunneld_wire::{ip, ipv4, ipv6, tcp, udp};

use super::Kinds;

/// Longest IP header with its extension headers of packets that are joined, in bytes.
pub(super) const MAX_NETWORK_LEN: usize = ipv6::Header::LEN + 256;

/// What packets that must keep their order have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// Source and destination, as they stand in the packet; of IPv4 in the first word.
    addresses: [u64; 4],
    /// Both ports, as they stand in the packet.
    ports: u32,
    protocol: u8,
    is_v6: bool,
}

impl Flow {
    /// Returns the flow of a packet whose transport is of `protocol` and stands behind `header_len`
    /// bytes, if it is TCP or UDP.
    pub(super) fn of<H: ip::Header>(
        packet: &[u8],
        header_len: usize,
        protocol: u8,
    ) -> Option<Self> {
        if !matches!(protocol, ip::PROTOCOL_TCP | ip::PROTOCOL_UDP) {
            return None;
        }
        let ports = u32::from_ne_bytes(*packet.get(header_len..)?.first_chunk()?);
        let mut addresses = [0; 4];
        let words = packet.get(H::ADDRESSES)?.chunks_exact(8);
        for (address, word) in addresses.iter_mut().zip(words) {
            *address = u64::from_ne_bytes(*word.first_chunk()?);
        }
        Some(Self { addresses, ports, protocol, is_v6: H::VERSION == Version::V6 })
    }

    /// Returns a number below 256.
    pub(super) const fn bucket(&self) -> usize {
        let [a0, a1, a2, a3] = self.addresses;
        let mixed = (a0 ^ a1).rotate_left(32) ^ a2 ^ a3 ^ (self.ports as u64).wrapping_mul(SPREAD);
        (mixed.wrapping_mul(SPREAD) >> 56) as usize
    }
}

/// An odd number whose multiples spread well. Source: Knuth, The Art of Computer Programming 3, §6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What decides whether a packet may be joined, and to what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) is_tcp: bool,
    pub(super) is_v6: bool,
    /// Whether it may not be fragmented, so that its identification means nothing.
    is_atomic: bool,
    /// Whether the sender wants it delivered at once: nothing is joined behind it.
    pub(super) pushes: bool,
    identification: u16,
    sequence: u32,
    /// Length of the IP header with its extension headers, in bytes.
    network_len: u16,
    /// Length of all headers, in bytes.
    headers_len: u16,
    /// Length of what is behind them, in bytes; 0: it goes alone.
    payload_len: u16,
}

impl Candidate {
    /// A packet that goes alone.
    pub(super) const SINGLE: Self = Self {
        is_tcp: false,
        is_v6: false,
        is_atomic: false,
        pushes: false,
        identification: 0,
        sequence: 0,
        network_len: 0,
        headers_len: 0,
        payload_len: 0,
    };

    /// Reads a packet that is no fragment; `None`: it goes alone.
    #[inline]
    pub(super) fn of<H: ip::Header>(header: &H, packet: &[u8], kinds: Kinds) -> Option<Self> {
        let (network, transport) = packet.split_at_checked(header.header_len())?;
        // A checksum of all ones, though right, is not what segmentation would write.
        let is_v6 = H::VERSION == Version::V6;
        if !is_v6 && network[10..12] == [0xff; 2] {
            return None;
        }
        // Options are in the way of the kernel's own joining, and some extension headers of its
        // segmentation.
        if network.len() != H::LEN && !(is_v6 && can_be_joined(network)) {
            return None;
        }
        let is_atomic = header.dont_fragment();
        let identification =
            if is_atomic { 0 } else { u16::from_be_bytes([network[4], network[5]]) };
        let network_len = network.len() as u16;
        let common = Self { is_v6, is_atomic, identification, network_len, ..Self::SINGLE };
        match header.protocol() {
            ip::PROTOCOL_TCP if kinds.tcp => common.with_tcp(transport),
            ip::PROTOCOL_UDP if kinds.udp => common.with_udp(transport),
            _ => None,
        }
    }

    #[inline]
    fn with_tcp(self, segment: &[u8]) -> Option<Self> {
        let tcp = tcp::Header::parse(segment)?;
        let payload_len = segment.len() - tcp.header_len;
        let is_plain = tcp.flags & !tcp::PSH == tcp::ACK;
        (is_plain && payload_len > 0 && tcp.checksum != 0xffff).then_some(Self {
            is_tcp: true,
            headers_len: (self.network_len() + tcp.header_len) as u16,
            payload_len: payload_len as u16,
            sequence: tcp.sequence,
            pushes: tcp.flags & tcp::PSH != 0,
            ..self
        })
    }

    #[inline]
    fn with_udp(self, datagram: &[u8]) -> Option<Self> {
        let (header, payload) = udp::Header::parse(datagram).ok()?;
        let is_whole = usize::from(header.len) == datagram.len();
        // Without a checksum it must stay without; segmentation would give it one. Over IPv6 the
        // receiver drops it, which is none of our business (RFC 8200 §8.1).
        (is_whole && !payload.is_empty() && header.checksum != 0).then_some(Self {
            headers_len: (self.network_len() + udp::Header::LEN) as u16,
            payload_len: payload.len() as u16,
            ..self
        })
    }

    /// Returns whether it may be part of a super-packet at all.
    pub(super) const fn may_be_joined(&self) -> bool {
        self.payload_len > 0
    }

    /// Returns the length of the IP header with its extension headers, in bytes.
    pub(super) const fn network_len(&self) -> usize {
        self.network_len as usize
    }

    /// Returns the length of all headers, in bytes.
    pub(super) const fn headers_len(&self) -> usize {
        self.headers_len as usize
    }

    /// Returns the length of what is behind the headers, in bytes.
    pub(super) const fn payload_len(&self) -> usize {
        self.payload_len as usize
    }

    /// Returns sequence number and identification, each as 0 where it means nothing.
    pub(super) const fn numbers(&self) -> (u32, u16) {
        (self.sequence, self.identification)
    }

    /// Returns the numbers that a packet must have to follow this one.
    pub(super) const fn next_numbers(&self) -> (u32, u16) {
        let step = if self.is_tcp { self.payload_len as u32 } else { 0 };
        let identification = self.identification.wrapping_add(!self.is_atomic as u16);
        (self.sequence.wrapping_add(step), identification)
    }

    /// Returns whether the headers of `packet` differ from those of `head` only in what segmentation
    /// writes anew.
    #[inline]
    pub(super) fn has_same_headers<H: ip::Header>(&self, packet: &[u8], head: &[u8]) -> bool {
        let len = self.network_len();
        let (Some((network, transport)), Some((head_network, head_transport))) =
            (packet.split_at_checked(len), head.split_at_checked(len))
        else {
            return false;
        };
        if len != H::LEN && network[H::LEN..] != head_network[H::LEN..] {
            return false;
        }
        let is_same_network = if H::VERSION == Version::V6 {
            is_same(&SAME_IPV6, network, head_network)
        } else {
            is_same(&SAME_IPV4, network, head_network)
        };
        is_same_network
            && if self.is_tcp {
                let options = tcp::HEADER_LEN..self.headers_len() - len;
                is_same(&SAME_TCP, transport, head_transport)
                    && (options.is_empty()
                        || transport.get(options.clone()) == head_transport.get(options))
            } else {
                is_same(&SAME_UDP, transport, head_transport)
            }
    }

    /// Returns whether the transport checksum of `packet` is right.
    ///
    /// The addresses of the pseudo-header stand right in front of the transport and are summed
    /// with it.
    #[inline]
    pub(super) fn verify<H: ip::Header>(&self, packet: &[u8]) -> bool {
        #[cfg(test)]
        VERIFIED.with_borrow_mut(|verified| verified.push(packet.to_vec()));
        let protocol = if self.is_tcp { ip::PROTOCOL_TCP } else { ip::PROTOCOL_UDP };
        let len = self.network_len();
        let pseudo = Sum::new().with_u16(protocol.into()).with_u16((packet.len() - len) as u16);
        let sum = if len == H::LEN {
            pseudo.with(packet.get(H::ADDRESSES.start..).unwrap_or_default())
        } else {
            let (network, transport) = packet.split_at(len);
            pseudo.with(&network[H::ADDRESSES]).with(transport)
        };
        sum.fold() == 0xffff
    }
}

/// Returns whether packets behind the extension headers of `network` are joined: those that the
/// kernel segments behind, no longer than there is room for.
#[cold]
fn can_be_joined(network: &[u8]) -> bool {
    network.len() <= MAX_NETWORK_LEN && ipv6::are_segmented_behind(network)
}

#[cfg(test)]
thread_local! {
    /// The packets whose checksums were verified, in order.
    pub(super) static VERIFIED: std::cell::RefCell<Vec<Vec<u8>>> = const {
        std::cell::RefCell::new(Vec::new())
    };
}

/// Of IPv4: version and header length, type of service; flags; hop limit, protocol; addresses.
const SAME_IPV4: [u8; ipv4::Header::LEN] = [
    0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff,
];

/// Of IPv6: all but the payload length.
const SAME_IPV6: [u8; ipv6::Header::LEN] = {
    let mut mask = [0xff; ipv6::Header::LEN];
    (mask[4], mask[5]) = (0, 0);
    mask
};

/// Of TCP: ports; acknowledgment, data offset; window; urgent pointer.
const SAME_TCP: [u8; tcp::HEADER_LEN] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0, 0, 0xff,
    0xff,
];

/// Of UDP: ports.
const SAME_UDP: [u8; udp::Header::LEN] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Returns whether two headers have the same bits where `mask` has some.
#[inline]
fn is_same<const LEN: usize>(mask: &[u8; LEN], header: &[u8], other: &[u8]) -> bool {
    let (Some(header), Some(other)) = (header.first_chunk::<LEN>(), other.first_chunk::<LEN>())
    else {
        return false;
    };
    let (mask, mask_rest) = words(mask);
    let (header, rest) = words(header);
    let (other, other_rest) = words(other);
    let of_words = mask.zip(header).zip(other);
    let differ = of_words.fold(0, |differ, ((mask, word), other)| differ | (word ^ other) & mask);
    differ == 0 && (rest ^ other_rest) & mask_rest == 0
}

/// Returns words of eight bytes, and what is left over, four bytes if any.
#[inline]
fn words<const LEN: usize>(bytes: &[u8; LEN]) -> (impl Iterator<Item = u64> + '_, u32) {
    let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    let words = bytes.chunks_exact(8);
    let rest = words.remainder().first_chunk().map_or(0, |rest| u32::from_ne_bytes(*rest));
    (words.map(word), rest)
}
