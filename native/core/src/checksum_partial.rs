//! Packets a kernel tunnel sent over a veth: checksum still partial, or a super-packet not yet cut.
//!
//! Path of a packet: `inbound` → **`checksum_partial`** → `coalescing`.
//! Such a tunnel leaves both to the device it sends by: the checksum field holds the pseudo-header's
//! sum and no more (CHECKSUM_PARTIAL), and a super-packet travels whole in one datagram. Nothing in
//! the datagram says so. Both go to the TUN device with a header that asks it to complete and to cut
//! them, TCP as `packet_sizes` says; without it they would be dropped.
//!
//! Source: linux Documentation/networking/checksum-offloads.rst (CHECKSUM_PARTIAL) and
//! segmentation-offloads.rst (SKB_GSO_UDP_TUNNEL).

use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{FLAG_NEEDS_CHECKSUM, Gso, Header as VnetHeader};
use tunneld_wire::{ip, ipv6, tcp, udp};

use crate::drop_reason::DropReason;
use crate::packet_sizes::{PacketSizes, Size};

/// Bytes that a segment has at least, whoever asks for less.
const LEAST: usize = 64;

/// What is known about a packet beside its bytes.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// What the kernel says of the segments in it, in bytes.
    pub segment_len: Option<usize>,
    /// Largest packet the device takes, in bytes.
    pub mtu: usize,
    /// Largest packets of the connections.
    pub sizes: &'a PacketSizes,
}

/// Prepares a packet that a VXLAN datagram held for the device: returns what to tell the device about
/// it. The checksum of a packet that must be cut is made partial in place, if it was right.
///
/// A right checksum can look partial by chance; completing it then changes nothing.
///
/// What is larger than the device's MTU and cannot be cut goes on whole: the kernel behind the device
/// fragments it or answers its sender (RFC 1812 §5.2.6), as it does behind its own tunnels.
///
/// # Errors
///
/// [`DropReason::Oversized`]: to be cut, and its checksum is wrong.
pub fn prepare<H: ip::Header>(
    header: &H,
    packet: &mut [u8],
    known: Known<'_>,
) -> Result<VnetHeader, DropReason> {
    let Known { segment_len, mtu, sizes } = known;
    let followed;
    let header = if header.protocol() == ipv6::ROUTING {
        followed = header.at_last_destination(packet);
        &followed
    } else {
        header
    };
    let (whole_len, start) = (packet.len(), header.header_len());
    let Some(transport) = packet.get(start..).filter(|_| !header.is_fragment()) else {
        return Ok(VnetHeader::default());
    };
    let Some(shape) = Shape::of(header, transport) else {
        return Ok(VnetHeader::default());
    };
    let (offset, headers_len) = (shape.checksum_offset, start + shape.header_len);
    let pseudo = header.pseudo_header().with_u16(transport.len() as u16);
    let field = u16::from_be_bytes([transport[offset], transport[offset + 1]]);
    let is_partial = field == pseudo.fold();
    let partial = VnetHeader {
        flags: FLAG_NEEDS_CHECKSUM,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::default()
    };
    let gso_size = match shape.gso {
        // Where one datagram ends and the next begins, only the kernel can tell.
        Gso::UdpL4 => segment_len.filter(|len| headers_len + len < whole_len),
        // A stream may be cut anywhere: as small as its receiver wants it.
        _ if is_partial || whole_len > mtu => match sizes.largest(header, packet) {
            Size::Known(size) => Some(size.min(mtu)),
            Size::Unknown(size) => (whole_len > mtu).then_some(size.min(mtu)),
        }
        .filter(|size| *size < whole_len)
        .map(|size| size.saturating_sub(headers_len).max(LEAST))
        .filter(|size| headers_len + size <= mtu),
        _ => None,
    };
    let Some(gso_size) = gso_size else {
        return Ok(if is_partial { partial } else { VnetHeader::default() });
    };
    let transport = &mut packet[start..];
    if !is_partial {
        if pseudo.with(transport).fold() != 0xffff {
            return Err(DropReason::Oversized);
        }
        transport[offset..offset + 2].copy_from_slice(&pseudo.fold().to_be_bytes());
    }
    let (gso, header_len, gso_size) = (shape.gso, headers_len as u16, gso_size as u16);
    Ok(VnetHeader { gso, header_len, gso_size, ..partial })
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
mod tests;
