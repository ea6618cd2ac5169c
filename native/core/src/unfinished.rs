//! Packets of a kernel's tunnel on a virtual link, of which something was left to the device.
//!
//! Path of a packet: `inbound` → **`unfinished`** → `coalescing`.
//! Such a tunnel leaves checksums unfinished: the field holds the pseudo-header's sum and no more.
//! And it sends super-packets uncut, in one datagram each. Nothing in the datagram says so. Both
//! go to the device with the hint to finish and to cut them; as they are, they would be dropped.
//!
//! Source: linux Documentation/networking/checksum-offloads.rst (CHECKSUM_PARTIAL) and
//! segmentation-offloads.rst (SKB_GSO_UDP_TUNNEL).

use tunneld_wire::virtio_net_hdr::{FLAG_NEEDS_CHECKSUM, Gso, Header as VnetHeader};
use tunneld_wire::{ip, tcp, udp};

use crate::drop_reason::DropReason;

/// Returns what to tell the device, whose MTU is `mtu`, about a packet that a VXLAN datagram
/// held. `segment_len` is what the kernel says of the segments in it.
///
/// A right checksum can look unfinished by chance; finishing it then changes nothing. One that was
/// finished, of a packet that must be cut, is put back to unfinished, if it was right.
///
/// # Errors
///
/// [`DropReason::Oversized`]: larger than the device takes, and no super-packet that it can cut.
pub fn hint(
    header: &ip::Header,
    packet: &mut [u8],
    segment_len: Option<usize>,
    mtu: usize,
) -> Result<VnetHeader, DropReason> {
    let refused = if packet.len() > mtu { Err(DropReason::Oversized) } else { Ok(()) };
    let (whole_len, start) = (packet.len(), header.header_len());
    let Some(transport) = packet.get_mut(start..).filter(|_| !header.is_fragment()) else {
        return refused.map(|()| VnetHeader::default());
    };
    let Some(shape) = Shape::of(header, transport) else {
        return refused.map(|()| VnetHeader::default());
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
        return refused.map(|()| if is_unfinished { hint } else { VnetHeader::default() });
    };
    if headers_len + gso_size > mtu {
        return Err(DropReason::Oversized);
    }
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
    fn of(header: &ip::Header, transport: &[u8]) -> Option<Self> {
        match header.protocol() {
            ip::PROTOCOL_TCP => tcp::Header::parse(transport).map(|tcp| Self {
                gso: if header.source().is_ipv4() { Gso::TcpV4 } else { Gso::TcpV6 },
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
            let mut packet = unfinished(protocol, offset);
            let header = ip::Header::parse(&packet).unwrap();
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
            let header = ip::Header::parse(&packet).unwrap();
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
            let header = ip::Header::parse(&packet).unwrap();
            assert_eq!(hint(&header, &mut packet, None, 1_450), Ok(VnetHeader::default()));
        }
    }
}
