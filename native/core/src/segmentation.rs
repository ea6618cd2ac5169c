//! Cutting a super-packet into the packets it stands for, as the kernel would.
//!
//! Path of a packet: `outbound` → **`segmentation`** → `batch`.
//! The headers are read once and kept as a template with their sums; each segment costs one copy
//! of its payload, summed along the way. What the device says about lengths is not believed.
//!
//! Source: virtio 1.2 §5.1.6.2; linux net/ipv4/tcp_offload.c, udp_offload.c and
//! net/ipv6/ip6_offload.c for the outcome; RFC 3168 §6.1.2 (CWR on the first segment only).

use tunneld_wire::checksum::Sum;
use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::{ip, ipv4, ipv6, tcp, udp};

use crate::drop_reason::DropReason;

/// Longest headers a segment can have, in bytes: IPv4 and TCP, both with all options; or IPv6
/// with extension headers of 96 bytes, which the kernel does not make for what it segments.
const MAX_HEADERS_LEN: usize = ipv6::Header::LEN + 96 + 60;

const TOTAL_LEN: core::ops::Range<usize> = 2..4;
const IDENTIFICATION: core::ops::Range<usize> = 4..6;
const HEADER_CHECKSUM: core::ops::Range<usize> = 10..12;
/// Over IPv6.
const PAYLOAD_LEN: core::ops::Range<usize> = 4..6;

/// What differs between the IP headers of segments, beside their lengths.
#[derive(Debug, Clone, Copy)]
enum Network {
    V4 { identification: u16, sum: Sum },
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp { sequence: u32, flags: u16, data_offset: u16 },
    Udp,
}

/// How a super-packet is cut: everything but its payload.
#[derive(Debug, Clone)]
pub struct Segmentation {
    network: Network,
    transport: Transport,
    /// Both headers; the fields that differ between segments are zero.
    template: [u8; MAX_HEADERS_LEN],
    network_len: usize,
    headers_len: usize,
    payload_len: usize,
    segment_payload_len: usize,
    count: usize,
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
        let network_len = header.header_len();
        let protocol = match (vnet.gso, H::VERSION) {
            (Gso::TcpV4, Version::V4) | (Gso::TcpV6, Version::V6) => ip::PROTOCOL_TCP,
            (Gso::TcpV4 | Gso::TcpV6, _) => return Err(DropReason::Malformed),
            (Gso::UdpL4, _) => ip::PROTOCOL_UDP,
            (Gso::None | Gso::Other(_), _) => return Err(DropReason::UnexpectedGso),
        };
        let segment = packet.get(network_len..).ok_or(DropReason::Malformed)?;
        if header.protocol() != protocol || header.is_fragment() {
            return Err(DropReason::Malformed);
        }
        let (transport, transport_len) = if protocol == ip::PROTOCOL_TCP {
            let tcp = tcp::Header::parse(segment).ok_or(DropReason::Malformed)?;
            let data_offset = (tcp.header_len as u16 / 4) << 12;
            let (sequence, flags) = (tcp.sequence, tcp.flags);
            (Transport::Tcp { sequence, flags, data_offset }, tcp.header_len)
        } else {
            (Transport::Udp, udp::Header::LEN)
        };
        let headers_len = network_len + transport_len;
        let payload_len = packet.len().checked_sub(headers_len).ok_or(DropReason::Malformed)?;
        if vnet.gso_size == 0 || headers_len > MAX_HEADERS_LEN {
            return Err(DropReason::Malformed);
        }
        let mut this = Self {
            network: Network::V6,
            transport,
            template: [0; MAX_HEADERS_LEN],
            network_len,
            headers_len,
            payload_len,
            segment_payload_len: usize::from(vnet.gso_size),
            count: payload_len.div_ceil(usize::from(vnet.gso_size)).max(1),
            transport_sum: Sum::new(),
        };
        this.template[..headers_len].copy_from_slice(&packet[..headers_len]);
        if take_hop {
            H::take_hop(&mut this.template[..headers_len]);
        }
        this.sum_up(header);
        Ok(this)
    }

    /// Clears what differs between segments, and sums up the rest.
    fn sum_up<H: ip::Header>(&mut self, header: &H) {
        let (network, transport) = self.template[..self.headers_len].split_at_mut(self.network_len);
        if H::VERSION == Version::V4 {
            let identification = u16::from_be_bytes([network[4], network[5]]);
            network[TOTAL_LEN].fill(0);
            network[IDENTIFICATION].fill(0);
            network[HEADER_CHECKSUM].fill(0);
            self.network = Network::V4 { identification, sum: Sum::new().with(network) };
        }
        match self.transport {
            Transport::Tcp { .. } => {
                transport[tcp::SEQUENCE_OFFSET..][..4].fill(0);
                transport[tcp::FLAGS_OFFSET..][..2].fill(0);
                transport[tcp::CHECKSUM_OFFSET..][..2].fill(0);
            }
            Transport::Udp => transport[udp::Header::LEN_OFFSET..].fill(0),
        }
        self.transport_sum = header.pseudo_header().with(transport);
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
        let transport_len = (total_len - self.network_len) as u16;

        let (headers, payload_slot) = slot.split_at_mut(self.headers_len);
        headers.copy_from_slice(&self.template[..self.headers_len]);
        let (network, transport) = headers.split_at_mut(self.network_len);
        match self.network {
            Network::V4 { identification, sum } => {
                let total_len = total_len as u16;
                let identification = identification.wrapping_add(index as u16);
                network[TOTAL_LEN].copy_from_slice(&total_len.to_be_bytes());
                network[IDENTIFICATION].copy_from_slice(&identification.to_be_bytes());
                let checksum = sum.with_u16(total_len).with_u16(identification).checksum();
                network[HEADER_CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
            }
            Network::V6 => {
                let payload_len = (total_len - ipv6::Header::LEN) as u16;
                network[PAYLOAD_LEN].copy_from_slice(&payload_len.to_be_bytes());
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

#[cfg(test)]
mod tests;
