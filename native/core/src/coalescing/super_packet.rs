//! The headers of a super-packet: those of its first packet, made to cover all.

use tunneld_wire::checksum::Sum;
use tunneld_wire::virtio_net_hdr::{FLAG_NEEDS_CHECKSUM, Gso, Header as VnetHeader};
use tunneld_wire::{ip, ipv4, ipv6, tcp, udp};

use super::candidate::{Candidate, MAX_NETWORK_LEN};

/// With the longest TCP header.
const MAX_LEN: usize = MAX_NETWORK_LEN + 60;

/// What stands in front of the payloads.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    /// What to tell the device.
    pub vnet: VnetHeader,
    /// Length of the headers of each packet, in bytes.
    pub len: usize,
    bytes: [u8; MAX_LEN],
}

impl Headers {
    /// Makes the headers of `total_len` bytes in all out of the first packet's. The checksum is
    /// left partial, as the kernel leaves it for what it segments itself.
    pub(super) fn join(head: &Candidate, packet: &[u8], total_len: usize, pushes: bool) -> Self {
        let len = head.headers_len();
        let mut bytes = [0; MAX_LEN];
        bytes[..len].copy_from_slice(&packet[..len]);
        let network_len = head.network_len();
        let (network, transport) = bytes[..len].split_at_mut(network_len);
        let transport_len = (total_len - network_len) as u16;

        let addresses = if head.is_v6 {
            let payload_len = (total_len - ipv6::Header::LEN) as u16;
            network[4..6].copy_from_slice(&payload_len.to_be_bytes());
            &network[8..ipv6::Header::LEN]
        } else {
            network[2..4].copy_from_slice(&(total_len as u16).to_be_bytes());
            network[10..12].fill(0);
            let checksum = Sum::new().with(network).checksum();
            network[10..12].copy_from_slice(&checksum.to_be_bytes());
            &network[12..ipv4::Header::LEN]
        };
        let protocol = if head.is_tcp { ip::PROTOCOL_TCP } else { ip::PROTOCOL_UDP };
        let pseudo =
            Sum::new().with(addresses).with_u16(protocol.into()).with_u16(transport_len).fold();
        let (gso, checksum_offset) = if head.is_tcp {
            if pushes {
                transport[tcp::FLAGS_OFFSET + 1] |= tcp::PSH as u8;
            }
            (if head.is_v6 { Gso::TcpV6 } else { Gso::TcpV4 }, tcp::CHECKSUM_OFFSET)
        } else {
            transport[udp::Header::LEN_OFFSET..][..2].copy_from_slice(&transport_len.to_be_bytes());
            (Gso::UdpL4, udp::Header::CHECKSUM_OFFSET)
        };
        transport[checksum_offset..][..2].copy_from_slice(&pseudo.to_be_bytes());
        let vnet = VnetHeader {
            flags: FLAG_NEEDS_CHECKSUM,
            gso,
            gso_ecn: false,
            header_len: len as u16,
            gso_size: head.payload_len() as u16,
            checksum_start: network_len as u16,
            checksum_offset: checksum_offset as u16,
        };
        Self { vnet, len, bytes }
    }

    /// Returns the headers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
