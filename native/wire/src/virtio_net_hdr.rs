//! virtio_net_hdr: what a TUN device says about a packet's checksum and segmentation.
//!
//! Path of a packet: TUN → `io` → **`wire::virtio_net_hdr`** → `core::outbound`.
//! The ten-byte form, in the machine's own byte order (a TUN device's default).
//!
//! Source: virtio 1.2 §5.1.6, linux/virtio_net.h.

use core::fmt;

use crate::checksum::Sum;
use crate::udp;

/// Flag: the transport checksum holds only the pseudo-header's sum.
pub const FLAG_NEEDS_CHECKSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// How the packet is to be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// It is one packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP datagrams, each with its own header.
    UdpL4,
    /// A kind this program does not know.
    Other(u8),
}

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Flags; bit 0: the checksum is not finished.
    pub flags: u8,
    /// How to segment.
    pub gso: Gso,
    /// Whether ECN is in use on the TCP connection.
    pub gso_ecn: bool,
    /// Length of all headers in front of the payload, in bytes. A hint, not to be trusted.
    pub header_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where checksumming starts, in bytes from the start of the packet.
    pub checksum_start: u16,
    /// Where the checksum goes, in bytes from `checksum_start`.
    pub checksum_offset: u16,
}

impl Header {
    /// Length in front of each packet, in bytes.
    pub const LEN: usize = 10;

    /// Returns the header that `bytes` hold.
    pub const fn parse(bytes: [u8; Self::LEN]) -> Self {
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1] = bytes;
        Self {
            flags,
            gso: match gso & !GSO_ECN {
                0 => Gso::None,
                1 => Gso::TcpV4,
                4 => Gso::TcpV6,
                5 => Gso::UdpL4,
                other => Gso::Other(other),
            },
            gso_ecn: gso & GSO_ECN != 0,
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// Returns the header as it stands in front of a packet.
    pub const fn emit(self) -> [u8; Self::LEN] {
        let gso = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => 1,
            Gso::TcpV6 => 4,
            Gso::UdpL4 => 5,
            Gso::Other(other) => other,
        };
        let gso = if self.gso_ecn { gso | GSO_ECN } else { gso };
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [self.flags, gso, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// Returns whether the transport checksum holds only the pseudo-header's sum so far.
    pub const fn needs_checksum(&self) -> bool {
        self.flags & FLAG_NEEDS_CHECKSUM != 0
    }

    /// Copies `packet`, whose transport checksum field holds the pseudo-header's sum, to `to`,
    /// which is of the same length, and finishes the checksum there.
    ///
    /// # Errors
    ///
    /// [`OutOfBounds`] where the field does not lie inside the packet.
    pub fn copy_finished(&self, to: &mut [u8], packet: &[u8]) -> Result<(), OutOfBounds> {
        let (start, offset) = (usize::from(self.checksum_start), usize::from(self.checksum_offset));
        let error = OutOfBounds { start, offset, have: packet.len() };
        let (Some((front, summed)), Some((front_to, summed_to))) =
            (packet.split_at_checked(start), to.split_at_mut_checked(start))
        else {
            return Err(error);
        };
        front_to.copy_from_slice(front);
        let sum = Sum::new().with_copy(summed_to, summed);
        let Some(field) = summed_to.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<2>) else {
            return Err(error);
        };
        let is_udp = offset == udp::Header::CHECKSUM_OFFSET;
        let checksum = if is_udp { udp::checksum_field(sum) } else { sum.checksum() };
        *field = checksum.to_be_bytes();
        Ok(())
    }
}

/// The checksum field lies outside the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfBounds {
    /// Where checksumming was to start.
    pub start: usize,
    /// Where the field was to be, from there.
    pub offset: usize,
    /// Bytes there.
    pub have: usize,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, offset, have } = *self;
        write!(f, "checksum field at {start} + {offset}, but only {have} bytes are there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn emit_inverts_parse() {
        let mut random = Seeded::new(7);
        for _ in 0..1_000 {
            let bytes: [u8; 10] = random.bytes(10).try_into().unwrap();
            assert_eq!(Header::parse(bytes).emit(), bytes);
        }
    }

    #[test]
    fn the_ecn_bit_does_not_hide_the_kind_of_segmentation() {
        let header = Header::parse([0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((header.gso, header.gso_ecn), (Gso::TcpV4, true));
    }

    /// A UDP datagram whose field holds the sum of `pseudo`.
    fn partial(payload: &[u8], pseudo: u16) -> (Header, Vec<u8>) {
        let mut packet = vec![0x45; 20];
        packet.extend([0x20, 0x5d, 0x20, 0x5d, 0, 8 + payload.len() as u8]);
        packet.extend(pseudo.to_be_bytes());
        packet.extend(payload);
        let header =
            Header { flags: 1, checksum_start: 20, checksum_offset: 6, ..Header::default() };
        (header, packet)
    }

    fn finished(header: Header, packet: &[u8]) -> Result<Vec<u8>, OutOfBounds> {
        let mut to = vec![0; packet.len()];
        header.copy_finished(&mut to, packet).map(|()| to)
    }

    #[test]
    fn finished_checksum_makes_the_datagram_sum_to_zero() {
        let (header, packet) = partial(b"odd", 0x1234);
        let packet = finished(header, &packet).unwrap();
        assert_eq!(Sum::new().with_u16(0x1234).with(&packet[20..]).checksum(), 0);
    }

    #[test]
    fn udp_checksum_of_zero_is_sent_as_all_ones() {
        // The two payload bytes are chosen so that everything sums to 0xffff.
        let (header, packet) = partial(&[0, 0], 0x1234);
        let missing = Sum::new().with(&packet[20..]).checksum();
        let (_, packet) = partial(&missing.to_be_bytes(), 0x1234);
        let packet = finished(header, &packet).unwrap();
        assert_eq!(packet[26..28], [0xff, 0xff]);
    }

    #[test]
    fn a_field_outside_the_packet_is_refused() {
        for (start, offset) in [(20, 9), (29, 0), (31, 0), (65_535, 65_535)] {
            let (header, packet) = partial(&[1, 2], 0);
            let header = Header { checksum_start: start, checksum_offset: offset, ..header };
            assert!(finished(header, &packet).is_err(), "{start} + {offset}");
        }
    }
}
