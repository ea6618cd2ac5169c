//! Transport checksums that were never finished.
//!
//! A kernel tunnel on a virtual link sends inner packets whose checksum it left to the device:
//! the field holds the pseudo-header's sum and no more, and nothing in the datagram says so.
//! Such a packet goes to the device with the hint to finish it; as it is, it would be dropped.
//!
//! Source: linux Documentation/networking/checksum-offloads.rst (CHECKSUM_PARTIAL).

use tunneld_wire::virtio_net_hdr::{FLAG_NEEDS_CHECKSUM, Header as VnetHeader};
use tunneld_wire::{ipv4, tcp, udp};

/// Returns what to tell the device about `packet`, if its transport checksum is unfinished.
///
/// A right checksum can look unfinished by chance; finishing it then changes nothing.
pub fn finish_hint(header: &ipv4::Header, packet: &[u8]) -> Option<VnetHeader> {
    let offset = match header.protocol {
        ipv4::PROTOCOL_TCP => tcp::CHECKSUM_OFFSET,
        ipv4::PROTOCOL_UDP => udp::Header::CHECKSUM_OFFSET,
        _ => return None,
    };
    if header.is_fragment() {
        return None;
    }
    let transport = packet.get(header.header_len..)?;
    let field = u16::from_be_bytes(*transport.get(offset..)?.first_chunk()?);
    let pseudo = ipv4::pseudo_header(header, header.protocol).with_u16(transport.len() as u16);
    (field == pseudo.fold()).then_some(VnetHeader {
        flags: FLAG_NEEDS_CHECKSUM,
        checksum_start: header.header_len as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::transport_packet;
    use tunneld_wire::checksum::Sum;

    fn unfinished(protocol: u8, offset: usize) -> Vec<u8> {
        let mut packet = transport_packet(protocol, &[], &[7; 33]);
        let pseudo = Sum::new()
            .with(&packet[12..20])
            .with_u16(u16::from(protocol))
            .with_u16(packet.len() as u16 - 20);
        packet[20 + offset..][..2].copy_from_slice(&pseudo.fold().to_be_bytes());
        packet
    }

    #[test]
    fn unfinished_inner_checksum_is_recognised_and_finished() {
        for (protocol, offset) in [(6, 16), (17, 6)] {
            let packet = unfinished(protocol, offset);
            let header = ipv4::Header::parse(&packet).unwrap();
            let hint = finish_hint(&header, &packet).unwrap();
            let mut finished = vec![0; packet.len()];
            hint.copy_finished(&mut finished, &packet).unwrap();
            assert_eq!(finished, transport_packet(protocol, &[], &[7; 33]));
        }
    }

    #[test]
    fn finished_and_broken_checksums_are_left_alone() {
        for protocol in [6, 17] {
            let mut packet = transport_packet(protocol, &[], &[7; 33]);
            let header = ipv4::Header::parse(&packet).unwrap();
            assert_eq!(finish_hint(&header, &packet), None);
            packet[40] ^= 1;
            assert_eq!(finish_hint(&header, &packet), None);
        }
    }

    #[test]
    fn fragments_and_other_protocols_have_no_such_checksum() {
        for (place, value) in [(6, 0x20), (7, 1), (9, 1)] {
            let mut packet = unfinished(17, 6);
            packet[place] = value;
            let header = ipv4::Header::parse(&packet).unwrap();
            assert_eq!(finish_hint(&header, &packet), None);
        }
    }
}
