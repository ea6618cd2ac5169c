//! TCP header: what segmentation and coalescing must know of it.
//!
//! Path of a packet: `core::segmentation` and `core::coalescing` → **`wire::tcp`**.
//! No connection state; of the options, which are bytes to be copied or compared, only the MSS.
//!
//! Source: RFC 9293 §3.1, §3.2; RFC 3168 §6.1 (CWR).

/// Length without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Where the sequence number stands in the header.
pub const SEQUENCE_OFFSET: usize = 4;
/// Where the data offset and the flags stand in the header.
pub const FLAGS_OFFSET: usize = 12;
/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// The sender has no more data.
pub const FIN: u16 = 0x01;
/// Sequence numbers begin: the first segment of each end.
pub const SYN: u16 = 0x02;
/// Push.
pub const PSH: u16 = 0x08;
/// The acknowledgment number counts.
pub const ACK: u16 = 0x10;
/// Congestion window reduced.
pub const CWR: u16 = 0x80;
/// All flags, with the reserved bits, of the two bytes at [`FLAGS_OFFSET`].
pub const ALL_FLAGS: u16 = 0x0fff;

/// A TCP header, without its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Length of the header with its options, in bytes: 20 to 60.
    pub header_len: usize,
    /// Flags and reserved bits.
    pub flags: u16,
    /// Checksum as found.
    pub checksum: u16,
}

impl Header {
    /// Returns the header at the start of `segment`, or `None` where it is not all there, or
    /// says that it is shorter than a header can be.
    pub fn parse(segment: &[u8]) -> Option<Self> {
        let fixed = segment.first_chunk::<HEADER_LEN>()?;
        let [_, _, _, _, s0, s1, s2, s3, _, _, _, _, f0, f1, _, _, c0, c1, _, _] = *fixed;
        let flags = u16::from_be_bytes([f0, f1]);
        let header_len = usize::from(flags >> 12) * 4;
        (HEADER_LEN..=segment.len()).contains(&header_len).then_some(Self {
            sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            header_len,
            flags: flags & ALL_FLAGS,
            checksum: u16::from_be_bytes([c0, c1]),
        })
    }
}

/// Returns the maximum segment size in bytes that `options`, those behind the fixed header, say.
pub fn max_segment_size(mut options: &[u8]) -> Option<u16> {
    loop {
        options = match options {
            [2, 4, m0, m1, ..] => return Some(u16::from_be_bytes([*m0, *m1])),
            [1, rest @ ..] => rest,
            [0, ..] | [] => return None,
            [_, len, ..] => options.get(usize::from(*len).max(2)..)?,
            [_] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN with 20 bytes of options, as Linux sends it.
    const SYN: [u8; 40] = [
        0x9c, 0x40, 0x14, 0x51, 0x12, 0x34, 0x56, 0x78, 0x00, 0x00, 0x00, 0x00, 0xa0, 0x02, 0xfa,
        0xf0, 0xbe, 0xef, 0x00, 0x00, 0x02, 0x04, 0x05, 0x98, 0x04, 0x02, 0x08, 0x0a, 0x00, 0x01,
        0x02, 0x03, 0x00, 0x00, 0x00, 0x00, 0x01, 0x03, 0x03, 0x07,
    ];

    #[test]
    fn every_field_is_read() {
        let header = Header::parse(&SYN).unwrap();
        assert_eq!(header.sequence, 0x1234_5678);
        assert_eq!((header.header_len, header.flags, header.checksum), (40, 0x002, 0xbeef));
    }

    #[test]
    fn a_header_that_is_not_all_there_is_none() {
        assert_eq!(Header::parse(&SYN[..39]), None);
        assert_eq!(Header::parse(&SYN[..19]), None);
        let mut short = SYN;
        short[12] = 0x40;
        assert_eq!(Header::parse(&short), None);
    }

    #[test]
    fn the_maximum_segment_size_is_found_among_options() {
        assert_eq!(max_segment_size(&SYN[20..]), Some(1_432));
        for (options, expected) in [
            (&[1, 1, 4, 2, 2, 4, 5, 0x50][..], Some(1_360)),
            (&[2, 4, 5], None),
            (&[2, 3, 5, 0], None),
            (&[0, 2, 4, 5, 0x50], None),
            (&[8, 0, 2, 4, 5, 0x50], Some(1_360)),
            (&[8, 200, 2, 4, 5, 0x50], None),
            (&[8], None),
            (&[], None),
        ] {
            assert_eq!(max_segment_size(options), expected, "{options:?}");
        }
    }
}
