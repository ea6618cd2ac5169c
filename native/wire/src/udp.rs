//! UDP header: parse and emit.
//!
//! The kernel writes and reads the outer ones; this serves tests and inner packets.
//!
//! Source: RFC 768.

use crate::checksum::Sum;

/// A parsed UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of header and payload, in bytes.
    pub len: u16,
    /// Checksum; 0: the sender made none.
    pub checksum: u16,
}

impl Header {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 8;

    /// Where the length stands in the header.
    pub const LEN_OFFSET: usize = 4;

    /// Where the checksum stands in the header.
    pub const CHECKSUM_OFFSET: usize = 6;

    /// Splits `datagram` into its header and its payload.
    ///
    /// # Errors
    ///
    /// [`Malformed`] where the length field is below 8 or beyond what is there.
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let have = datagram.len();
        let Some((header, payload)) = datagram.split_first_chunk::<{ Self::LEN }>() else {
            return Err(Malformed::Truncated { have });
        };
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        let len = u16::from_be_bytes([l0, l1]);
        let Some(payload) =
            usize::from(len).checked_sub(Self::LEN).and_then(|len| payload.get(..len))
        else {
            return Err(Malformed::Length { len, have });
        };
        let header = Self {
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            len,
            checksum: u16::from_be_bytes([c0, c1]),
        };
        Ok((header, payload))
    }

    /// Returns the header as it goes on the wire.
    pub const fn emit(self) -> [u8; Self::LEN] {
        let [s0, s1] = self.source_port.to_be_bytes();
        let [d0, d1] = self.destination_port.to_be_bytes();
        let [l0, l1] = self.len.to_be_bytes();
        let [c0, c1] = self.checksum.to_be_bytes();
        [s0, s1, d0, d1, l0, l1, c0, c1]
    }
}

/// Returns the checksum field for a datagram whose sum is `sum`: never zero, which would mean
/// that there is none (RFC 768).
pub const fn checksum_field(sum: Sum) -> u16 {
    match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Why bytes are not a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a header.
    Truncated {
        /// Bytes there.
        have: usize,
    },
    /// The length field is below 8, or more than what is there.
    Length {
        /// Length found, in bytes.
        len: u16,
        /// Bytes there.
        have: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outer UDP header of flannel-udp-8285.pcap.
    const CAPTURED: [u8; 8] = [0x20, 0x5d, 0x20, 0x5d, 0x00, 0x5c, 0x15, 0x4a];

    #[test]
    fn captured_header_is_read_and_written_back() {
        let mut datagram = CAPTURED.to_vec();
        datagram.resize(0x5c, 7);
        let (header, payload) = Header::parse(&datagram).unwrap();
        assert_eq!((header.source_port, header.destination_port), (8285, 8285));
        assert_eq!(payload.len(), 84);
        assert_eq!(header.emit(), CAPTURED);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert_eq!(Header::parse(&CAPTURED[..7]), Err(Malformed::Truncated { have: 7 }));
        assert_eq!(Header::parse(&CAPTURED), Err(Malformed::Length { len: 92, have: 8 }));
        assert_eq!(
            Header::parse(&[0, 0, 0, 0, 0, 7, 0, 0]),
            Err(Malformed::Length { len: 7, have: 8 })
        );
    }
}
