//! IPv4 header: parse, emit, take a hop.
//!
//! Path of a packet: `core::outbound` and `core::inbound` → `ip` → **`wire::ipv4`**.
//! No fragmentation and no reassembly: a router passes fragments on as they are.
//!
//! Source: RFC 791 §3.1, RFC 1812 §5.3.1.
//!
//! ```text
//! |Version|  IHL  |Type of Service|          Total Length         |
//! |         Identification        |Flags|      Fragment Offset    |
//! |  Time to Live |    Protocol   |         Header Checksum       |
//! |                         Source Address                        |
//! |                      Destination Address                      |
//! ```

use core::net::{IpAddr, Ipv4Addr};
use core::ops::Range;

use crate::checksum::{self, Sum};
use crate::ecn::Ecn;
use crate::ip::{self, Malformed, Version};

const VERSION: u8 = 4;
const CHECKSUM: core::ops::Range<usize> = 10..12;
/// The bit by which routers must not fragment a packet.
pub const FLAG_DONT_FRAGMENT: u16 = 0x4000;
const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A parsed IPv4 header. Options are counted in `header_len`, not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the header with its options, in bytes: 20 to 60.
    pub header_len: usize,
    /// DSCP and ECN.
    pub type_of_service: u8,
    /// Length of header and payload, in bytes.
    pub total_len: u16,
    /// Identification.
    pub identification: u16,
    /// Flags and fragment offset, as they stand in the packet.
    pub fragment: u16,
    /// Time to live.
    pub hop_limit: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum as found. [`Header::emit`] computes its own.
    pub checksum: u16,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Header {
    /// Length without options, in bytes.
    pub const LEN: usize = 20;

    /// Where the hop limit stands.
    pub const HOP_LIMIT: usize = 8;

    /// Returns the header of `packet`, which must be exactly one IPv4 packet.
    ///
    /// The checksum is not verified: see [`verify_checksum`].
    ///
    /// # Errors
    ///
    /// The first [`Malformed`] of: truncated, version, header length, truncated options,
    /// total length.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        let have = packet.len();
        let Some(fixed) = packet.first_chunk::<{ Self::LEN }>() else {
            return Err(Malformed::Truncated { need: Self::LEN, have });
        };
        let [first, tos, l0, l1, i0, i1, f0, f1, hop_limit, protocol, c0, c1, addresses @ ..] =
            *fixed;
        if first >> 4 != VERSION {
            return Err(Malformed::Version { version: first >> 4 });
        }
        let header_len = usize::from(first & 0x0f) * 4;
        if header_len < Self::LEN {
            return Err(Malformed::HeaderLength { header_len });
        }
        if have < header_len {
            return Err(Malformed::Truncated { need: header_len, have });
        }
        let total_len = u16::from_be_bytes([l0, l1]);
        match usize::from(total_len) {
            total_len if total_len > have => {
                return Err(Malformed::TotalLengthTooLong { total_len, have });
            }
            total_len if total_len < have => {
                return Err(Malformed::TotalLengthTooShort { total_len, have });
            }
            _ => {}
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        Ok(Self {
            header_len,
            type_of_service: tos,
            total_len,
            identification: u16::from_be_bytes([i0, i1]),
            fragment: u16::from_be_bytes([f0, f1]),
            hop_limit,
            protocol,
            checksum: u16::from_be_bytes([c0, c1]),
            source: Ipv4Addr::new(s0, s1, s2, s3),
            destination: Ipv4Addr::new(d0, d1, d2, d3),
        })
    }

    /// Returns the header of a packet of this host's own, whole and without options. A source of
    /// zeros is left to the kernel, where it sends (raw(7)).
    pub const fn of_own(
        protocol: u8,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        total_len: u16,
    ) -> Self {
        Self {
            header_len: Self::LEN,
            type_of_service: 0,
            total_len,
            identification: 0,
            fragment: 0,
            hop_limit: ip::HOP_LIMIT,
            protocol,
            checksum: 0,
            source,
            destination,
        }
    }

    /// Returns the header as it goes on the wire, without options, its checksum computed.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = VERSION << 4 | (Self::LEN / 4) as u8;
        bytes[1] = self.type_of_service;
        bytes[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.identification.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        bytes[Self::HOP_LIMIT] = self.hop_limit;
        bytes[9] = self.protocol;
        bytes[12..16].copy_from_slice(&self.source.octets());
        bytes[16..20].copy_from_slice(&self.destination.octets());
        let checksum = Sum::new().with(&bytes).checksum();
        bytes[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Returns whether routers must not fragment the packet.
    pub const fn dont_fragment(&self) -> bool {
        self.fragment & FLAG_DONT_FRAGMENT != 0
    }

    /// Returns whether this is a fragment, the first or a later one.
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (FLAG_MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Returns whether this is a fragment other than the first.
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }
}

impl ip::Header for Header {
    type Address = Ipv4Addr;

    const VERSION: Version = Version::V4;
    const LEN: usize = Self::LEN;
    const MIN_MTU: usize = 68;
    const ADDRESSES: Range<usize> = 12..20;

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
        Ecn::of(self.type_of_service)
    }

    fn set_ecn(packet: &mut [u8], ecn: Ecn) {
        if let Some(header) = packet.first_chunk_mut::<{ Self::LEN }>() {
            let class = header[1] & !3 | ecn as u8;
            let word = |class| u16::from_be_bytes([header[0], class]);
            let checksum = u16::from_be_bytes([header[CHECKSUM.start], header[CHECKSUM.start + 1]]);
            let checksum = checksum::update(checksum, word(header[1]), word(class));
            header[1] = class;
            header[CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    fn source(&self) -> Ipv4Addr {
        self.source
    }

    fn destination(&self) -> Ipv4Addr {
        self.destination
    }

    fn is_routable(&self) -> bool {
        // One that is not finds no lease.
        true
    }

    fn has_right_checksum(&self, packet: &[u8]) -> bool {
        match packet.first_chunk::<{ Self::LEN }>() {
            Some(header) if self.header_len == Self::LEN => verify_checksum(header),
            _ => verify_checksum(&packet[..self.header_len]),
        }
    }

    fn dont_fragment(&self) -> bool {
        self.dont_fragment()
    }

    fn is_fragment(&self) -> bool {
        self.is_fragment()
    }

    fn pseudo_header(&self) -> Sum {
        pseudo_header(self, self.protocol)
    }

    fn at_last_destination(&self, _packet: &[u8]) -> Self {
        *self
    }

    fn quoted_tcp(quoted: &[u8]) -> Option<(IpAddr, IpAddr, [u8; 4])> {
        let fixed = quoted.first_chunk::<{ Self::LEN }>()?;
        let is_tcp = fixed[0] >> 4 == VERSION && fixed[9] == ip::PROTOCOL_TCP;
        let [_, _, _, _, _, _, _, _, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *fixed;
        let (source, destination) = (Ipv4Addr::new(s0, s1, s2, s3), Ipv4Addr::new(d0, d1, d2, d3));
        let ports = quoted.get(usize::from(fixed[0] & 0x0f) * 4..)?.first_chunk()?;
        is_tcp.then_some((source.into(), destination.into(), *ports))
    }
}

/// Returns whether the header checksum is right. `header` is the header with its options.
#[inline]
pub fn verify_checksum(header: &[u8]) -> bool {
    Sum::new().with(header).fold() == 0xffff
}

/// Returns the sum of the pseudo-header of TCP and UDP, but for the length.
///
/// Source: RFC 9293 §3.1, RFC 768.
pub const fn pseudo_header(header: &Header, protocol: u8) -> Sum {
    Sum::new()
        .with_u32(header.source.to_bits())
        .with_u32(header.destination.to_bits())
        .with_u16(protocol as u16)
}

/// Takes one hop off a packet and repairs its checksum.
///
/// Returns false, and leaves the packet alone, where it has none left to spend (RFC 1812
/// §5.3.1: a packet is not forwarded with a TTL of zero) or is shorter than a header.
#[inline]
pub fn take_hop(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<{ Header::LEN }>() else {
        return false;
    };
    let hop_limit = header[Header::HOP_LIMIT];
    if hop_limit <= 1 {
        return false;
    }
    let protocol = header[Header::HOP_LIMIT + 1];
    // In the order of the bytes, whatever it is: the sum does not care.
    let old = u16::from_ne_bytes([hop_limit, protocol]);
    let new = u16::from_ne_bytes([hop_limit - 1, protocol]);
    let checksum = u16::from_ne_bytes([header[CHECKSUM.start], header[CHECKSUM.start + 1]]);
    header[Header::HOP_LIMIT] = hop_limit - 1;
    header[CHECKSUM].copy_from_slice(&checksum::update(checksum, old, new).to_ne_bytes());
    true
}

/// Returns whether `address` names exactly one interface of a network.
///
/// Source: RFC 1812 §4.2.2.11, §4.2.3.1.
pub const fn is_unicast(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    /// Inner packet of a ping, as flanneld received it on the underlay (flannel-udp-8285.pcap).
    const CAPTURED: [u8; 20] = [
        0x45, 0x00, 0x00, 0x54, 0x17, 0xb8, 0x40, 0x00, 0x3e, 0x01, 0xd6, 0xe3, 0x0a, 0x05, 0x1a,
        0x02, 0x0a, 0x05, 0x20, 0x02,
    ];

    fn captured() -> Vec<u8> {
        let mut packet = CAPTURED.to_vec();
        packet.resize(0x54, 0);
        packet
    }

    #[test]
    fn captured_header_is_read() {
        let header = Header::parse(&captured()).unwrap();
        assert_eq!(header.source, Ipv4Addr::new(10, 5, 26, 2));
        assert_eq!(header.destination, Ipv4Addr::new(10, 5, 32, 2));
        assert_eq!((header.hop_limit, header.protocol, header.total_len), (62, 1, 84));
        assert!(header.dont_fragment());
        assert!(!header.is_later_fragment());
    }

    #[test]
    fn emit_inverts_parse() {
        let header = Header::parse(&captured()).unwrap();
        assert_eq!(header.emit(), CAPTURED);
    }

    #[test]
    fn parse_inverts_emit() {
        let mut random = Seeded::new(4);
        for _ in 0..10_000 {
            let len = 20 + random.next() as usize % 100;
            let header = Header {
                header_len: 20,
                type_of_service: random.next() as u8,
                total_len: len as u16,
                identification: random.next() as u16,
                fragment: random.next() as u16,
                hop_limit: random.next() as u8,
                protocol: random.next() as u8,
                checksum: 0,
                source: Ipv4Addr::from_bits(random.next() as u32),
                destination: Ipv4Addr::from_bits(random.next() as u32),
            };
            let mut packet = header.emit().to_vec();
            assert!(verify_checksum(&packet));
            packet.resize(len, 0xa5);
            let parsed = Header::parse(&packet).unwrap();
            assert_eq!(Header { checksum: 0, ..parsed }, header);
        }
    }

    #[test]
    fn every_fault_has_its_own_error() {
        let whole = captured();
        let with = |at: usize, value: u8| {
            let mut packet = whole.clone();
            packet[at] = value;
            Header::parse(&packet).unwrap_err()
        };
        assert_eq!(Header::parse(&whole[..19]), Err(Malformed::Truncated { need: 20, have: 19 }));
        assert_eq!(Header::parse(&[]), Err(Malformed::Truncated { need: 20, have: 0 }));
        assert_eq!(with(0, 0x65), Malformed::Version { version: 6 });
        assert_eq!(with(0, 0x44), Malformed::HeaderLength { header_len: 16 });
        assert_eq!(with(3, 0x55), Malformed::TotalLengthTooLong { total_len: 85, have: 84 });
        assert_eq!(with(3, 0x53), Malformed::TotalLengthTooShort { total_len: 83, have: 84 });
        assert_eq!(
            Header::parse(&[&[0x46], &CAPTURED[1..]].concat()),
            Err(Malformed::Truncated { need: 24, have: 20 })
        );
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut random = Seeded::new(5);
        for _ in 0..100_000 {
            let len = random.next() as usize % 70;
            let mut bytes = random.bytes(len);
            if let Some(first) = bytes.first_mut() {
                *first = 0x40 | (*first & 0x0f);
            }
            if let Ok(header) = Header::parse(&bytes) {
                assert!(header.header_len <= bytes.len());
            }
            take_hop(&mut bytes);
        }
    }

    #[test]
    fn a_hop_taken_keeps_every_checksum_right() {
        let mut random = Seeded::new(6);
        for hop_limit in 2..=255 {
            for _ in 0..200 {
                let header = Header {
                    hop_limit,
                    identification: random.next() as u16,
                    destination: Ipv4Addr::from_bits(random.next() as u32),
                    ..Header::parse(&captured()).unwrap()
                };
                let mut packet = header.emit();
                assert!(take_hop(&mut packet));
                assert_eq!(packet[Header::HOP_LIMIT], hop_limit - 1);
                assert!(verify_checksum(&packet));
            }
        }
    }

    #[test]
    fn the_last_hop_is_not_taken() {
        for hop_limit in [0, 1] {
            let mut packet = captured();
            packet[Header::HOP_LIMIT] = hop_limit;
            let before = packet.clone();
            assert!(!take_hop(&mut packet));
            assert_eq!(packet, before);
        }
    }

    #[test]
    fn a_flipped_bit_breaks_the_checksum() {
        for bit in 0..160 {
            let mut header = CAPTURED;
            header[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify_checksum(&header), "bit {bit}");
        }
    }
}
