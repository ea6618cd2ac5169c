//! Cutting a super-packet into the packets it stands for, as the kernel would.
//!
//! Path of a packet: `outbound` → **`segmentation`** → `batch`.
//! Every segment has the super-packet's headers, of whatever length; their sums are made once, and
//! each segment costs one copy of its payload, summed along the way. Where the transport begins,
//! and what its checksum covers beside it, the device knows of headers that cannot be walked over:
//! it says where to sum, and the field holds the pseudo-header's sum. Its `hdr_len` is not believed.
//!
//! Source: virtio 1.2 §5.1.6.2; linux net/ipv4/tcp_offload.c, udp_offload.c and
//! net/ipv6/ip6_offload.c for the outcome; RFC 3168 §6.1.2 (CWR on the first segment only).

use tunneld_wire::checksum::Sum;
use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::{ip, ipv4, ipv6, tcp, udp};

use crate::drop_reason::DropReason;

/// Most packets joined to one super-packet, and most datagrams in a train: what every kernel cuts
/// (linux/udp.h, UDP_MAX_SEGMENTS before 6.9).
pub const MAX_SEGMENTS: usize = 64;

const TOTAL_LEN: core::ops::Range<usize> = 2..4;
const IDENTIFICATION: core::ops::Range<usize> = 4..6;
const HEADER_CHECKSUM: core::ops::Range<usize> = 10..12;
/// Over IPv6.
const PAYLOAD_LEN: core::ops::Range<usize> = 4..6;

/// What differs between the IP headers of segments.
#[derive(Debug, Clone, Copy)]
enum Network {
    /// The sum leaves out what differs, and the checksum.
    V4 {
        identification: u16,
        sum: Sum,
    },
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp { sequence: u32, flags: u16, data_offset: u16 },
    Udp,
}

/// Where the transport begins, and the sum of what its checksum covers in front of it, but for the
/// length.
struct Front {
    start: usize,
    pseudo: Sum,
}

/// How a super-packet is cut: everything but its bytes.
#[derive(Debug, Clone)]
pub struct Segmentation {
    network: Network,
    transport: Transport,
    hop_limit: u8,
    transport_start: usize,
    headers_len: usize,
    payload_len: usize,
    segment_payload_len: usize,
    count: usize,
    /// Of pseudo-header and transport header, but for lengths and what differs.
    transport_sum: Sum,
}

impl Segmentation {
    /// Reads the headers of `packet`, a super-packet of either family that stays as old as it is.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of(vnet: &VnetHeader, packet: &[u8]) -> Result<Self, DropReason> {
        fn read<H: ip::Header>(
            vnet: &VnetHeader,
            packet: &[u8],
        ) -> Result<Segmentation, DropReason> {
            let header = H::parse(packet).map_err(|_| DropReason::Malformed)?;
            Segmentation::new(vnet, &header, packet, false)
        }
        match Version::of(packet) {
            Some(Version::V4) => read::<ipv4::Header>(vnet, packet),
            Some(Version::V6) => read::<ipv6::Header>(vnet, packet),
            _ => Err(DropReason::Malformed),
        }
    }

    /// Reads the headers of `packet`, which `vnet` says is a super-packet. With `take_hop` every
    /// segment is one hop older.
    ///
    /// # Errors
    ///
    /// [`DropReason::UnexpectedGso`]: of a kind that no offload of ours makes.
    /// [`DropReason::Malformed`]: the headers are not all there, or not of that kind.
    pub fn new<H: ip::Header>(
        vnet: &VnetHeader,
        header: &H,
        packet: &[u8],
        take_hop: bool,
    ) -> Result<Self, DropReason> {
        let is_tcp = match (vnet.gso, H::VERSION) {
            (Gso::TcpV4, Version::V4) | (Gso::TcpV6, Version::V6) => true,
            (Gso::TcpV4 | Gso::TcpV6, _) => return Err(DropReason::Malformed),
            (Gso::UdpL4, _) => false,
            (Gso::None | Gso::Other(_), _) => return Err(DropReason::UnexpectedGso),
        };
        let Front { start, pseudo } = Front::of(vnet, header, packet, is_tcp)?;
        let segment = packet.get(start..).ok_or(DropReason::Malformed)?;
        let (transport, transport_len) = if is_tcp {
            let tcp = tcp::Header::parse(segment).ok_or(DropReason::Malformed)?;
            let data_offset = (tcp.header_len as u16 / 4) << 12;
            let (sequence, flags) = (tcp.sequence, tcp.flags);
            (Transport::Tcp { sequence, flags, data_offset }, tcp.header_len)
        } else {
            (Transport::Udp, udp::Header::LEN)
        };
        let headers_len = start + transport_len;
        let payload_len = packet.len().checked_sub(headers_len).ok_or(DropReason::Malformed)?;
        if vnet.gso_size == 0 {
            return Err(DropReason::Malformed);
        }
        let hop_limit = header.hop_limit().saturating_sub(u8::from(take_hop));
        let fixed = &segment[..transport_len];
        // What is taken out of a sum is added as its complement (RFC 1624 §3).
        let transport_sum = match transport {
            Transport::Tcp { sequence, flags, data_offset } => pseudo
                .with(fixed)
                .with_u32(!sequence)
                .with_u16(!(data_offset | flags))
                .with_u16(!field(fixed, tcp::CHECKSUM_OFFSET)),
            Transport::Udp => pseudo
                .with(fixed)
                .with_u16(!field(fixed, udp::Header::LEN_OFFSET))
                .with_u16(!field(fixed, udp::Header::CHECKSUM_OFFSET)),
        };
        Ok(Self {
            network: Network::of(header, packet, hop_limit),
            transport,
            hop_limit,
            transport_start: start,
            headers_len,
            payload_len,
            segment_payload_len: usize::from(vnet.gso_size),
            count: payload_len.div_ceil(usize::from(vnet.gso_size)).max(1),
            transport_sum,
        })
    }

    /// Returns the number of segments, at least one.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Returns the length of segment `index` in bytes, headers included. The first is the longest.
    pub fn segment_len(&self, index: usize) -> usize {
        let before = index * self.segment_payload_len;
        self.headers_len + (self.payload_len - before).min(self.segment_payload_len)
    }

    /// Writes segment `index` of `packet` to `slot`, which has its length.
    pub fn write(&self, packet: &[u8], index: usize, slot: &mut [u8]) {
        let first = self.headers_len + index * self.segment_payload_len;
        let payload = &packet[first..first + slot.len() - self.headers_len];
        let total_len = slot.len();
        let transport_len = (total_len - self.transport_start) as u16;

        let (headers, payload_slot) = slot.split_at_mut(self.headers_len);
        headers.copy_from_slice(&packet[..self.headers_len]);
        let (network, transport) = headers.split_at_mut(self.transport_start);
        match self.network {
            Network::V4 { identification, sum } => {
                let total_len = total_len as u16;
                let identification = identification.wrapping_add(index as u16);
                network[TOTAL_LEN].copy_from_slice(&total_len.to_be_bytes());
                network[IDENTIFICATION].copy_from_slice(&identification.to_be_bytes());
                network[ipv4::Header::HOP_LIMIT] = self.hop_limit;
                let checksum = sum.with_u16(total_len).with_u16(identification).checksum();
                network[HEADER_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
            }
            Network::V6 => {
                let payload_len = (total_len - ipv6::Header::LEN) as u16;
                network[PAYLOAD_LEN].copy_from_slice(&payload_len.to_be_bytes());
                network[ipv6::Header::HOP_LIMIT] = self.hop_limit;
            }
        }

        let sum = self.transport_sum.with_copy(payload_slot, payload).with_u16(transport_len);
        match self.transport {
            Transport::Tcp { sequence, flags, data_offset } => {
                let sequence = sequence.wrapping_add((index * self.segment_payload_len) as u32);
                let mut flags = flags;
                if index > 0 {
                    flags &= !tcp::CWR;
                }
                if index + 1 < self.count() {
                    flags &= !(tcp::FIN | tcp::PSH);
                }
                let flags = data_offset | flags;
                let checksum = sum.with_u32(sequence).with_u16(flags).checksum();
                transport[tcp::SEQUENCE_OFFSET..][..4].copy_from_slice(&sequence.to_be_bytes());
                transport[tcp::FLAGS_OFFSET..][..2].copy_from_slice(&flags.to_be_bytes());
                transport[tcp::CHECKSUM_OFFSET..][..2].copy_from_slice(&checksum.to_be_bytes());
            }
            Transport::Udp => {
                let checksum = udp::checksum_field(sum.with_u16(transport_len));
                transport[udp::Header::LEN_OFFSET..][..2]
                    .copy_from_slice(&transport_len.to_be_bytes());
                transport[udp::Header::CHECKSUM_OFFSET..][..2]
                    .copy_from_slice(&checksum.to_be_bytes());
            }
        }
    }
}

impl Front {
    /// Returns where a super-packet's transport begins: where the device sums from, else where the
    /// headers lead.
    fn of<H: ip::Header>(
        vnet: &VnetHeader,
        header: &H,
        packet: &[u8],
        is_tcp: bool,
    ) -> Result<Self, DropReason> {
        let (protocol, offset) = if is_tcp {
            (ip::PROTOCOL_TCP, tcp::CHECKSUM_OFFSET)
        } else {
            (ip::PROTOCOL_UDP, udp::Header::CHECKSUM_OFFSET)
        };
        let walked = header.header_len();
        let is_of_kind = header.protocol() == protocol && !header.is_fragment();
        if !vnet.needs_checksum() {
            return is_of_kind
                .then(|| Self { start: walked, pseudo: header.pseudo_header() })
                .ok_or(DropReason::Malformed);
        }
        let start = usize::from(vnet.checksum_start);
        // Beyond what can be walked over, and only there, the device knows better.
        let is_beyond = H::VERSION == Version::V6 && start > walked;
        if !(is_beyond || is_of_kind && start == walked) {
            return Err(DropReason::Malformed);
        }
        let transport = packet.get(start..).ok_or(DropReason::Malformed)?;
        if usize::from(vnet.checksum_offset) != offset || transport.len() < offset + 2 {
            return Err(DropReason::Malformed);
        }
        let pseudo = Sum::new().with_u16(field(transport, offset));
        let len =
            if is_tcp { transport.len() as u16 } else { field(transport, udp::Header::LEN_OFFSET) };
        Ok(Self { start, pseudo: pseudo.with_u16(!len) })
    }
}

impl Network {
    /// Reads an IP header; segments have `hop_limit`.
    fn of<H: ip::Header>(header: &H, packet: &[u8], hop_limit: u8) -> Self {
        if H::VERSION != Version::V4 {
            return Self::V6;
        }
        let bytes = &packet[..header.header_len()];
        let sum = Sum::new()
            .with(bytes)
            .with_u16(!field(bytes, TOTAL_LEN.start))
            .with_u16(!field(bytes, IDENTIFICATION.start))
            .with_u16(!field(bytes, HEADER_CHECKSUM.start))
            .with_u16(!u16::from_be_bytes([header.hop_limit(), 0]))
            .with_u16(u16::from_be_bytes([hop_limit, 0]));
        Self::V4 { identification: field(bytes, IDENTIFICATION.start), sum }
    }
}

/// Returns the 16 bits at `place`, which must be there.
fn field(bytes: &[u8], place: usize) -> u16 {
    u16::from_be_bytes([bytes[place], bytes[place + 1]])
}

#[cfg(test)]
mod tests;
