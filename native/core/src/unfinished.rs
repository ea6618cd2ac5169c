//! Packets of a kernel's tunnel on a virtual link, of which something was left to the device.
//!
//! Path of a packet: `inbound` → **`unfinished`** → `coalescing`.
//! Such a tunnel leaves checksums unfinished: the field holds the pseudo-header's sum and no more.
//! And it sends super-packets uncut, in one datagram each. Nothing in the datagram says so. Both
//! go to the device with the hint to finish and to cut them; as they are, they would be dropped.
//!
//! Source: linux Documentation/networking/checksum-offloads.rst (CHECKSUM_PARTIAL) and
//! segmentation-offloads.rst (SKB_GSO_UDP_TUNNEL).

use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{FLAG_NEEDS_CHECKSUM, Gso, Header as VnetHeader};
use tunneld_wire::{ip, tcp, udp};

use crate::drop_reason::DropReason;

/// Returns what to tell the device, whose MTU is `mtu`, about a packet that a VXLAN datagram
/// held. `segment_len` is what the kernel says of the segments in it.
///
/// A right checksum can look unfinished by chance; finishing it then changes nothing. One that was
/// finished, of a packet that must be cut, is put back to unfinished, if it was right.
///
/// What is larger than `mtu` and cannot be cut goes on whole: the kernel behind the device fragments
/// it or answers its sender (RFC 1812 §5.2.6), as it does behind its own tunnels.
///
/// # Errors
///
/// [`DropReason::Oversized`]: to be cut, and its checksum is wrong.
pub fn hint<H: ip::Header>(
    header: &H,
    packet: &mut [u8],
    segment_len: Option<usize>,
    mtu: usize,
) -> Result<VnetHeader, DropReason> {
    let (whole_len, start) = (packet.len(), header.header_len());
    let Some(transport) = packet.get_mut(start..).filter(|_| !header.is_fragment()) else {
        return Ok(VnetHeader::default());
    };
    let Some(shape) = Shape::of(header, transport) else {
        return Ok(VnetHeader::default());
    };
    let (offset, headers_len) = (shape.checksum_offset, start + shape.header_len);
    let pseudo = header.pseudo_header().with_u16(transport.len() as u16);
    let field = u16::from_be_bytes([transport[offset], transport[offset + 1]]);
    let is_unfinished = field == pseudo.fold();
    let hint = VnetHeader {
        flags: FLAG_NEEDS_CHECKSUM,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::default()
    };
    let gso_size = match shape.gso {
        // Where one datagram ends and the next begins, only the kernel can tell.
        Gso::UdpL4 => segment_len.filter(|len| headers_len + len < whole_len),
        // A stream may be cut anywhere: so that it goes on as any other packet of the device.
        _ if whole_len > mtu => mtu.checked_sub(headers_len),
        _ => None,
    };
    let Some(gso_size) = gso_size.filter(|size| *size > 0) else {
        return Ok(if is_unfinished { hint } else { VnetHeader::default() });
    };
    if !is_unfinished {
        if pseudo.with(transport).fold() != 0xffff {
            return Err(DropReason::Oversized);
        }
        transport[offset..offset + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
    }
    let (gso, header_len, gso_size) = (shape.gso, headers_len as u16, gso_size as u16);
    Ok(VnetHeader { gso, header_len, gso_size, ..hint })
}

/// What a transport header says about cutting.
struct Shape {
    gso: Gso,
    header_len: usize,
    checksum_offset: usize,
}

impl Shape {
    /// Returns the shape of a TCP segment or UDP datagram whose header is all there.
    fn of<H: ip::Header>(header: &H, transport: &[u8]) -> Option<Self> {
        match header.protocol() {
            ip::PROTOCOL_TCP => tcp::Header::parse(transport).map(|tcp| Self {
                gso: if H::VERSION == Version::V4 { Gso::TcpV4 } else { Gso::TcpV6 },
                header_len: tcp.header_len,
                checksum_offset: tcp::CHECKSUM_OFFSET,
            }),
            ip::PROTOCOL_UDP if transport.len() >= udp::Header::LEN => Some(Self {
                gso: Gso::UdpL4,
                header_len: udp::Header::LEN,
                checksum_offset: udp::Header::CHECKSUM_OFFSET,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segmentation::Segmentation;
    use crate::testing::transport_packet;
    use tunneld_wire::checksum::Sum;
    use tunneld_wire::ipv4;

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
            let mut packet = unfinished(protocol, offset);
            let header = ipv4::Header::parse(&packet).unwrap();
            let hint = hint(&header, &mut packet, None, 1_450).unwrap();
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
            assert_eq!(hint(&header, &mut packet, None, 1_450), Ok(VnetHeader::default()));
            packet[40] ^= 1;
            assert_eq!(hint(&header, &mut packet, None, 1_450), Ok(VnetHeader::default()));
        }
    }

    #[test]
    fn fragments_and_other_protocols_have_no_such_checksum() {
        for (place, value) in [(6, 0x20), (7, 1), (9, 1)] {
            let mut packet = unfinished(17, 6);
            packet[place] = value;
            let header = ipv4::Header::parse(&packet).unwrap();
            assert_eq!(hint(&header, &mut packet, None, 1_450), Ok(VnetHeader::default()));
        }
    }

    /// A packet of `payload_len` bytes of payload as a kernel's tunnel hands it over.
    fn whole(protocol: u8, offset: usize, options: &[u8], payload_len: usize) -> Vec<u8> {
        let mut packet = transport_packet(protocol, options, &vec![0x5a; payload_len]);
        let pseudo = Sum::new()
            .with(&packet[12..20])
            .with_u16(u16::from(protocol))
            .with_u16(packet.len() as u16 - 20);
        packet[20 + offset..][..2].copy_from_slice(&pseudo.fold().to_be_bytes());
        packet
    }

    fn hint_for(packet: &mut [u8], segment_len: Option<usize>) -> Result<VnetHeader, DropReason> {
        let header = ipv4::Header::parse(packet).unwrap();
        hint(&header, packet, segment_len, 1_450)
    }

    /// Segments as `hint` says they are to be cut.
    fn lengths(packet: &[u8], vnet: &VnetHeader) -> Vec<usize> {
        let header = ipv4::Header::parse(packet).unwrap();
        let cut = Segmentation::new(vnet, &header, packet, false).unwrap();
        (0..cut.count()).map(|index| cut.segment_len(index)).collect()
    }

    #[test]
    fn datagram_of_64_kib_without_cmsg_is_cut_to_the_mtu() {
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        let mut packet = whole(6, 16, &timestamps, 64_000);
        let vnet = hint_for(&mut packet, None).unwrap();
        assert_eq!((vnet.gso, vnet.gso_size, vnet.header_len), (Gso::TcpV4, 1_398, 52));
        assert_eq!((vnet.checksum_start, vnet.checksum_offset), (20, 16));
        let lengths = lengths(&packet, &vnet);
        assert_eq!(lengths.len(), 64_000usize.div_ceil(1_398));
        assert!(lengths.iter().all(|len| *len <= 1_450));
    }

    #[test]
    fn uso_cmsg_with_the_inner_size_cuts_datagrams_where_they_end() {
        let mut packet = whole(17, 6, &[], 40_000);
        let vnet = hint_for(&mut packet, Some(1_000)).unwrap();
        assert_eq!((vnet.gso, vnet.gso_size, vnet.header_len), (Gso::UdpL4, 1_000, 28));
        assert_eq!(lengths(&packet, &vnet), [1_028; 40]);
        // Also where all of them together are not larger than the device takes.
        let mut packet = whole(17, 6, &[], 900);
        assert_eq!(hint_for(&mut packet, Some(300)).unwrap().gso, Gso::UdpL4);
        assert_eq!(hint_for(&mut packet, None).unwrap().gso, Gso::None);
    }

    #[test]
    fn a_checksum_that_was_finished_is_put_back_if_it_was_right() {
        for (protocol, offset, segment_len) in [(6, 16, None), (17, 6, Some(1_000))] {
            let mut packet = transport_packet(protocol, &[], &[0x5a; 5_000]);
            let vnet = hint_for(&mut packet, segment_len).unwrap();
            assert!(vnet.needs_checksum());
            assert_eq!(packet, whole(protocol, offset, &[], 5_000));
            packet[4_000] ^= 1;
            let mut wrong = transport_packet(protocol, &[], &[0x5a; 5_000]);
            wrong[4_000] ^= 1;
            assert_eq!(hint_for(&mut wrong, segment_len), Err(DropReason::Oversized));
        }
    }

    #[test]
    fn what_cannot_be_cut_goes_on_whole_for_the_kernel_to_fragment_or_answer() {
        let whole_goes_on = |packet: &mut Vec<u8>, segment_len| {
            let vnet = hint_for(packet, segment_len).unwrap();
            assert_eq!(vnet.gso, Gso::None);
            vnet
        };
        let mut no_segments = whole(17, 6, &[], 5_000);
        assert!(whole_goes_on(&mut no_segments, None).needs_checksum());
        let mut other = whole(17, 6, &[], 5_000);
        other[9] = 1;
        whole_goes_on(&mut other, Some(1_000));
        let mut fragment = whole(6, 16, &[], 5_000);
        fragment[6] = 0x20;
        whole_goes_on(&mut fragment, None);
        let mut cut = whole(6, 16, &[], 5_000);
        cut[32] = 0x40;
        whole_goes_on(&mut cut, None);
        // Datagrams that are larger than the device's MTU keep their length.
        let mut datagrams = whole(17, 6, &[], 5_000);
        assert_eq!(hint_for(&mut datagrams, Some(1_430)).unwrap().gso_size, 1_430);
    }
}
