//! The layout of an ESP packet, and what lies in it once it is open.
//!
//! `SPI 4 | sequence number, lower half 4 | IV 8 | payload, padding, trailer 2 | ICV 16`, of which
//! everything from the payload up to the ICV is ciphertext.
//!
//! Source: RFC 4303 §2, RFC 4106 §3, RFC 7634 §2.

use core::ops::Range;

use crate::fault::Fault;

/// Length of SPI, sequence number and IV, in bytes.
pub const HEAD: usize = 16;
/// Length of the integrity check value, in bytes.
pub const ICV: usize = 16;
/// Most bytes behind a payload: padding, its length, the next header, the ICV.
pub const TAIL: usize = ALIGNMENT - 1 + TRAILER + ICV;
/// Least length of a packet: one without payload.
pub const MIN_LEN: usize = HEAD + ALIGNMENT + ICV;

/// Length of the padding's length and the next header, in bytes.
pub(crate) const TRAILER: usize = 2;
/// What the length of the ciphertext is a multiple of.
pub(crate) const ALIGNMENT: usize = 4;

const UDP: u16 = 8;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An IPv4 packet.
    Ipv4,
    /// An IPv6 packet.
    Ipv6,
    /// Nothing: a sign of life.
    Dummy,
}

impl Content {
    /// Returns its number among the IP protocols.
    pub const fn next_header(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 41,
            Self::Dummy => 59,
        }
    }

    const fn of(next_header: u8) -> Option<Self> {
        match next_header {
            4 => Some(Self::Ipv4),
            41 => Some(Self::Ipv6),
            59 => Some(Self::Dummy),
            _ => None,
        }
    }
}

/// Returns how many bytes of padding follow a payload of `len` bytes: 0 to 3.
pub const fn padding(len: usize) -> usize {
    (len + TRAILER).wrapping_neg() % ALIGNMENT
}

/// Returns the length of the packet around a payload of `len` bytes.
pub const fn sealed_len(len: usize) -> usize {
    HEAD + len + padding(len) + TRAILER + ICV
}

/// Returns the longest inner packet, in bytes, that an underlay of `underlay_bytes` carries behind
/// an outer IP header of `outer_ip_bytes`; `None` if there is no room for any.
pub const fn inner_mtu(underlay_bytes: u16, outer_ip_bytes: u16) -> Option<u16> {
    let Some(len) = underlay_bytes.checked_sub(outer_ip_bytes + UDP) else { return None };
    match largest_payload(len as usize) {
        Some(len) => Some(len as u16),
        None => None,
    }
}

/// Returns the length of the largest payload that a packet of at most `len` bytes carries; `None`
/// if it carries none.
pub const fn largest_payload(len: usize) -> Option<usize> {
    let Some(room) = len.checked_sub(HEAD + ICV) else { return None };
    (room & !(ALIGNMENT - 1)).checked_sub(TRAILER)
}

/// Returns what `text` holds, and the length of it in bytes: padding is taken off, and what lies
/// behind the inner packet.
///
/// # Errors
///
/// [`Fault`]: the padding is not 1, 2, 3 …; the next header is none of ours or not that of the
/// packet's version; the packet is longer than its payload.
#[inline]
pub(crate) fn unpack(text: &[u8]) -> Result<(Content, usize), Fault> {
    let (padded, [padding, next_header]) = text.split_last_chunk().ok_or(Fault::Malformed)?;
    let len = padded.len().checked_sub(usize::from(*padding)).ok_or(Fault::Padding)?;
    let (payload, padding) = padded.split_at(len);
    if !padding.iter().zip(1..=u8::MAX).all(|(byte, expected)| *byte == expected) {
        return Err(Fault::Padding);
    }
    let content = Content::of(*next_header).ok_or(Fault::NextHeader)?;
    let (version, least, field) = match content {
        Content::Ipv4 => (4, IPV4_LEN, 2..4),
        Content::Ipv6 => (6, IPV6_LEN, 4..6),
        Content::Dummy => return Ok((content, 0)),
    };
    if payload.len() < least {
        return Err(Fault::InnerLength);
    }
    if payload[0] >> 4 != version {
        return Err(Fault::NextHeader);
    }
    let field = read_u16(payload, field);
    let len = if content == Content::Ipv4 { field } else { IPV6_LEN + field };
    if len < least || len > payload.len() { Err(Fault::InnerLength) } else { Ok((content, len)) }
}

fn read_u16(bytes: &[u8], place: Range<usize>) -> usize {
    bytes[place].iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text: payload, padding, trailer.
    fn text(payload: &[u8], padding: &[u8], next_header: u8) -> Vec<u8> {
        [payload, padding, &[padding.len() as u8, next_header]].concat()
    }

    fn ipv4(len: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(len).max(20)];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet
    }

    fn ipv6(payload_len: u16) -> Vec<u8> {
        let mut packet = vec![0; 40 + usize::from(payload_len)];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        packet
    }

    #[test]
    fn an_underlay_of_1500_carries_1438_over_ipv4_and_1418_over_ipv6() {
        assert_eq!(inner_mtu(1_500, 20), Some(1_438));
        assert_eq!(inner_mtu(1_500, 40), Some(1_418));
        assert_eq!(inner_mtu(20 + 8 + 36, 20), Some(2));
        assert_eq!(inner_mtu(20 + 8 + 35, 20), None);
        assert_eq!(inner_mtu(0, 20), None);
    }

    #[test]
    fn the_mtu_is_the_longest_packet_that_fits() {
        for (underlay, outer) in (100..1_600).flat_map(|mtu| [(mtu, 20), (mtu, 40)]) {
            let inner = usize::from(inner_mtu(underlay, outer).unwrap());
            let room = usize::from(underlay - outer - 8);
            assert!(sealed_len(inner) <= room, "{underlay}");
            assert!(sealed_len(inner + 1) > room, "{underlay}");
        }
    }

    #[test]
    fn the_shortest_packet_has_36_bytes_and_the_most_behind_a_payload_is_21() {
        assert_eq!((MIN_LEN, sealed_len(0)), (36, 36));
        assert_eq!(TAIL, 21);
        assert!((0..100).all(|len| sealed_len(len) <= HEAD + len + TAIL));
    }

    #[test]
    fn a_payload_is_told_by_its_next_header() {
        assert_eq!(unpack(&text(&ipv4(21), &[1], 4)), Ok((Content::Ipv4, 21)));
        assert_eq!(unpack(&text(&ipv6(0), &[1, 2], 41)), Ok((Content::Ipv6, 40)));
        assert_eq!(unpack(&text(&[], &[1, 2], 59)), Ok((Content::Dummy, 0)));
        assert_eq!(unpack(&text(&[9; 40], &[1, 2], 59)), Ok((Content::Dummy, 0)));
        for other in (0..=255).filter(|number| ![4, 41, 59].contains(number)) {
            assert_eq!(unpack(&text(&ipv4(20), &[], other)), Err(Fault::NextHeader), "{other}");
        }
    }

    #[test]
    fn the_next_header_must_be_that_of_the_version() {
        assert_eq!(unpack(&text(&ipv6(0), &[], 4)), Err(Fault::NextHeader));
        let mut long = ipv4(60);
        assert_eq!(unpack(&text(&long, &[], 41)), Err(Fault::NextHeader));
        long[0] = 0x55;
        assert_eq!(unpack(&text(&long, &[], 4)), Err(Fault::NextHeader));
    }

    #[test]
    fn padding_counts_from_one_and_lies_within_the_text() {
        let most: Vec<u8> = (1..=255).collect();
        assert_eq!(unpack(&text(&ipv4(20), &most, 4)), Ok((Content::Ipv4, 20)));
        for wrong in [&[0][..], &[1, 1], &[2, 1], &[1, 2, 4], &[0, 1, 2]] {
            assert_eq!(unpack(&text(&ipv4(20), wrong, 4)), Err(Fault::Padding), "{wrong:?}");
        }
        assert_eq!(unpack(&[1, 59]), Err(Fault::Padding), "more than there is");
        assert_eq!(unpack(&[59]), Err(Fault::Malformed));
    }

    #[test]
    fn what_lies_behind_the_inner_packet_is_cut_off() {
        for extra in [1, 3, 64, 1_400] {
            let v4 = [ipv4(24), vec![0xee; extra]].concat();
            assert_eq!(unpack(&text(&v4, &[1], 4)), Ok((Content::Ipv4, 24)));
            let v6 = [ipv6(8), vec![0xee; extra]].concat();
            assert_eq!(unpack(&text(&v6, &[1], 41)), Ok((Content::Ipv6, 48)));
        }
    }

    #[test]
    fn a_packet_is_no_longer_than_its_payload_and_no_shorter_than_its_header() {
        let cut = |mut packet: Vec<u8>| packet.pop().map(|_| packet).unwrap();
        assert_eq!(unpack(&text(&cut(ipv4(24)), &[], 4)), Err(Fault::InnerLength));
        assert_eq!(unpack(&text(&cut(ipv6(8)), &[], 41)), Err(Fault::InnerLength));
        assert_eq!(unpack(&text(&cut(ipv6(0)), &[], 41)), Err(Fault::InnerLength));
        assert_eq!(unpack(&text(&ipv4(19), &[], 4)), Err(Fault::InnerLength));
        assert_eq!(unpack(&text(&[], &[], 4)), Err(Fault::InnerLength));
    }
}
