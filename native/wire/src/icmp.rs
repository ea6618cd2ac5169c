//! ICMP errors: what a router owes the sender of a packet it cannot forward.
//!
//! Path of a packet: `core::outbound` | `core::inbound` → **`wire::icmp`** → raw socket.
//! Builds whole IPv4 packets (those over IPv6: `icmpv6`); how many of them may leave is decided
//! in `core::icmp_limit`.
//!
//! Source: RFC 792, RFC 1812 §4.3.2, RFC 1191 §4 (next-hop MTU).

use core::net::Ipv4Addr;

use crate::checksum::Sum;
use crate::{ip, ipv4};

/// Largest ICMP error, its IP header included, in bytes (RFC 1812 §4.3.2.3).
pub const MAX_LEN: usize = 576;

const HEADER_LEN: usize = 8;
/// Precedence 6, internetwork control (RFC 1812 §4.3.2.5).
const TYPE_OF_SERVICE: u8 = 0xc0;

/// What went wrong, over either version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// No route to the destination.
    NoRoute,
    /// Too large for the next hop, and not to be fragmented.
    TooBig {
        /// What would fit, in bytes.
        next_hop_mtu_bytes: u16,
    },
    /// The hop limit ran out on the way.
    TimeExceeded,
}

/// Type, code, and the four bytes after the checksum.
const fn fields(error: Error) -> (u8, u8, [u8; 4]) {
    match error {
        Error::NoRoute => (3, 0, [0; 4]),
        Error::TooBig { next_hop_mtu_bytes } => {
            let [m0, m1] = next_hop_mtu_bytes.to_be_bytes();
            (3, 4, [0, 0, m0, m1])
        }
        Error::TimeExceeded => (11, 0, [0; 4]),
    }
}

/// Writes `error` about `offender` into `buffer`, which has room for [`MAX_LEN`] bytes, and
/// returns its length in bytes.
///
/// As much of `offender` goes with it as fits. Ask [`may_answer`] first.
pub fn emit(
    error: Error,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    offender: &[u8],
    buffer: &mut [u8],
) -> usize {
    const PAYLOAD: usize = ipv4::Header::LEN + HEADER_LEN;
    let quoted = &offender[..offender.len().min(MAX_LEN - PAYLOAD)];
    let total_len = PAYLOAD + quoted.len();
    let header = ipv4::Header::of_own(ip::PROTOCOL_ICMP, source, destination, total_len as u16);
    let header = ipv4::Header { type_of_service: TYPE_OF_SERVICE, ..header };
    buffer[..ipv4::Header::LEN].copy_from_slice(&header.emit());
    let (kind, code, [r0, r1, r2, r3]) = fields(error);
    let mut message = [kind, code, 0, 0, r0, r1, r2, r3];
    let checksum = Sum::new().with(&message).with(quoted).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    buffer[ipv4::Header::LEN..PAYLOAD].copy_from_slice(&message);
    buffer[PAYLOAD..total_len].copy_from_slice(quoted);
    total_len
}

/// Returns whether an ICMP error may be sent about `packet`.
///
/// Never about ICMP other than queries, later fragments, packets to many, or packets whose
/// source is not one host.
///
/// Source: RFC 1812 §4.3.2.7.
pub fn may_answer(packet: &[u8]) -> bool {
    let Ok(header) = ipv4::Header::parse(packet) else { return false };
    !header.is_later_fragment()
        && ipv4::is_unicast(header.source)
        && ipv4::is_unicast(header.destination)
        && (header.protocol != ip::PROTOCOL_ICMP
            || packet.get(header.header_len).is_some_and(|kind| is_query(*kind)))
}

/// Returns the next hop's MTU in bytes and the beginning of the packet in question, of a message
/// that says frag-needed. A router older than RFC 1191 says 0, which is no MTU.
pub fn next_hop_mtu(message: &[u8]) -> Option<(usize, &[u8])> {
    match message.split_first_chunk::<HEADER_LEN>()? {
        ([3, 4, _, _, _, _, m0, m1], offender) => {
            let mtu = u16::from_be_bytes([*m0, *m1]);
            (mtu != 0).then_some((mtu.into(), offender))
        }
        _ => None,
    }
}

/// Echo, router discovery, timestamp, information, address mask, extended echo.
/// Types nobody has assigned count as errors: silence is the safe answer.
const fn is_query(kind: u8) -> bool {
    matches!(kind, 0 | 8 | 9 | 10 | 13..=18 | 42 | 43)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packet 5 of flannel-udp-tun-f1-unreach.pcap: UDP to a subnet nobody leased.
    const OFFENDER: [u8; 48] = [
        0x45, 0x00, 0x00, 0x30, 0x1b, 0x95, 0x40, 0x00, 0x3f, 0x11, 0xf8, 0x14, 0x0a, 0x05, 0x1a,
        0x02, 0x0a, 0x05, 0xfa, 0x07, 0xa6, 0x17, 0x00, 0x09, 0x00, 0x1c, 0x7c, 0xcd, 0x78, 0x78,
        0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78, 0x78,
        0x78, 0x78, 0x78,
    ];
    /// Packet 6 of the same capture: what flanneld answered, with 28 bytes of the offender.
    const ANSWER: [u8; 56] = [
        0x45, 0x00, 0x00, 0x38, 0x00, 0x00, 0x00, 0x00, 0x08, 0x01, 0x6a, 0xba, 0x0a, 0x05, 0x1a,
        0x00, 0x0a, 0x05, 0x1a, 0x02, 0x03, 0x00, 0xd9, 0xf5, 0x00, 0x00, 0x00, 0x00, 0x45, 0x00,
        0x00, 0x30, 0x1b, 0x95, 0x40, 0x00, 0x3f, 0x11, 0xf8, 0x14, 0x0a, 0x05, 0x1a, 0x02, 0x0a,
        0x05, 0xfa, 0x07, 0xa6, 0x17, 0x00, 0x09, 0x00, 0x1c, 0x7c, 0xcd,
    ];
    const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 5, 26, 0);
    const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 5, 26, 2);

    fn build(error: Error, offender: &[u8]) -> Vec<u8> {
        let mut buffer = [0; MAX_LEN];
        let len = emit(error, SOURCE, DESTINATION, offender, &mut buffer);
        buffer[..len].to_vec()
    }

    #[test]
    fn net_unreachable_carries_the_message_flanneld_sends() {
        // flanneld quotes 28 bytes, so it is given 28 here; its TOS and TTL are its own.
        let built = build(Error::NoRoute, &OFFENDER[..28]);
        assert_eq!(built[20..], ANSWER[20..]);
        assert_eq!(built[12..20], ANSWER[12..20]);
        assert!(ipv4::verify_checksum(&built[..20]));
    }

    #[test]
    fn the_whole_offender_is_quoted_where_it_fits() {
        let built = build(Error::NoRoute, &OFFENDER);
        assert_eq!(built.len(), 28 + OFFENDER.len());
        assert_eq!(built[28..], OFFENDER);
        assert_eq!(Sum::new().with(&built[20..]).checksum(), 0);
    }

    #[test]
    fn a_large_offender_is_cut_at_576_bytes() {
        let built = build(Error::TimeExceeded, &[0x45; 65_535]);
        assert_eq!(built.len(), 576);
        assert_eq!(ipv4::Header::parse(&built).unwrap().total_len, 576);
        assert_eq!(built[20..22], [11, 0]);
        assert_eq!(Sum::new().with(&built[20..]).checksum(), 0);
    }

    #[test]
    fn fragmentation_needed_names_the_next_hop_mtu() {
        let built = build(Error::TooBig { next_hop_mtu_bytes: 1_472 }, &OFFENDER);
        assert_eq!(built[20..22], [3, 4]);
        assert_eq!(built[24..28], [0, 0, 0x05, 0xc0]);
    }

    fn answered(edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut packet = OFFENDER.to_vec();
        edit(&mut packet);
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        may_answer(&packet)
    }

    fn icmp(kind: u8) -> impl FnOnce(&mut Vec<u8>) {
        move |packet| {
            packet[9] = ip::PROTOCOL_ICMP;
            packet[20] = kind;
        }
    }

    #[test]
    fn an_ordinary_datagram_is_answered() {
        assert!(answered(|_| {}));
    }

    #[test]
    fn icmp_queries_are_answered_and_icmp_errors_are_not() {
        assert!(answered(icmp(8)));
        assert!(answered(icmp(0)));
        for kind in [3, 4, 5, 11, 12, 200] {
            assert!(!answered(icmp(kind)), "type {kind}");
        }
        assert!(!answered(|packet| {
            packet[9] = ip::PROTOCOL_ICMP;
            packet.truncate(20);
        }));
    }

    #[test]
    fn only_the_first_fragment_is_answered() {
        assert!(answered(|packet| packet[6] = 0x20));
        assert!(!answered(|packet| packet[7] = 0x01));
    }

    #[test]
    fn nothing_is_said_to_or_about_many_hosts() {
        for first in [0, 127, 224, 239, 240, 255] {
            assert!(!answered(|packet| packet[12] = first), "source {first}");
            assert!(!answered(|packet| packet[16] = first), "destination {first}");
        }
    }
}
