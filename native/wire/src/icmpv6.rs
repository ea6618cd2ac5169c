//! ICMP errors over IPv6: the counterpart of `icmp`.
//!
//! Path of a packet: `core::outbound` | `core::inbound` → **`wire::icmpv6`** → raw socket.
//!
//! Builds messages alone: the kernel gives them an IP header, with a source of its choice, and the
//! checksum over both.
//!
//! Source: RFC 4443 §2.2 (source), §2.4 (e) (about what none is sent), §3.1, §3.2, §3.3; RFC 3542
//! §3.1 (what a raw socket of ICMPv6 is given).

use crate::icmp::Error;
use crate::{ip, ipv6};

/// Largest ICMP error without its IP header, in bytes, with which it has the smallest MTU of IPv6
/// (RFC 4443 §2.4 (c)).
pub const MAX_LEN: usize = 1_280 - ipv6::Header::LEN;

const HEADER_LEN: usize = 8;
/// Types from here on are no errors.
const FIRST_INFORMATIONAL: u8 = 128;
/// An error by its nature, though its type is informational.
const REDIRECT: u8 = 137;

/// Type, code, and the four bytes after the checksum.
const fn fields(error: Error) -> (u8, u8, [u8; 4]) {
    match error {
        Error::NoRoute => (1, 0, [0; 4]),
        Error::TooBig { next_hop_mtu_bytes } => (2, 0, (next_hop_mtu_bytes as u32).to_be_bytes()),
        Error::TimeExceeded => (3, 0, [0; 4]),
    }
}

/// Writes `error` about `offender` into `buffer`, which has room for [`MAX_LEN`] bytes, and
/// returns its length in bytes. Its checksum is left to the kernel.
///
/// As much of `offender` goes with it as fits. Ask [`may_answer`] first.
pub fn emit(error: Error, offender: &[u8], buffer: &mut [u8]) -> usize {
    let quoted = &offender[..offender.len().min(MAX_LEN - HEADER_LEN)];
    let (kind, code, [r0, r1, r2, r3]) = fields(error);
    buffer[..HEADER_LEN].copy_from_slice(&[kind, code, 0, 0, r0, r1, r2, r3]);
    let len = HEADER_LEN + quoted.len();
    buffer[HEADER_LEN..len].copy_from_slice(quoted);
    len
}

/// Returns the next hop's MTU in bytes and the beginning of the packet in question, of a message
/// that says packet-too-big.
pub fn next_hop_mtu(message: &[u8]) -> Option<(usize, &[u8])> {
    match message.split_first_chunk::<HEADER_LEN>()? {
        ([2, _, _, _, m0, m1, m2, m3], offender) => {
            let mtu = u32::from_be_bytes([*m0, *m1, *m2, *m3]);
            Some((usize::try_from(mtu).ok()?, offender))
        }
        _ => None,
    }
}

/// Returns whether an ICMP error may be sent about `packet`.
///
/// Never about ICMP errors and redirects, nor about packets to many or from what is not one host.
/// What cannot be told, in a later fragment, counts as an error: silence is the safe answer.
pub fn may_answer(packet: &[u8]) -> bool {
    let Ok(header) = ipv6::Header::parse(packet) else { return false };
    ipv6::is_routable(header.source)
        && ipv6::is_routable(header.destination)
        && (header.protocol != ip::PROTOCOL_ICMPV6
            || (!header.is_later_fragment()
                && packet.get(header.header_len).is_some_and(|kind| is_query(*kind))))
}

const fn is_query(kind: u8) -> bool {
    kind >= FIRST_INFORMATIONAL && kind != REDIRECT
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    /// scapy: IPv6(src="fd00:5:1::2", dst="fd00:5:2::2", hlim=63, tc=0x2e, fl=0x12345)
    /// / UDP(sport=40000, dport=9) / b"payload".
    const OFFENDER: [u8; 55] = [
        0x62, 0xe1, 0x23, 0x45, 0x00, 0x0f, 0x11, 0x3f, 0xfd, 0x00, 0x00, 0x05, 0x00, 0x01, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xfd, 0x00, 0x00, 0x05, 0x00, 0x02,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x9c, 0x40, 0x00, 0x09, 0x00,
        0x0f, 0xac, 0x44, 0x70, 0x61, 0x79, 0x6c, 0x6f, 0x61, 0x64,
    ];

    fn build(error: Error, offender: &[u8]) -> Vec<u8> {
        let mut buffer = [0xff; MAX_LEN];
        let len = emit(error, offender, &mut buffer);
        buffer[..len].to_vec()
    }

    #[test]
    fn errors_are_those_scapy_builds_but_for_the_checksum() {
        for (error, message) in [
            (Error::NoRoute, [0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]),
            (
                Error::TooBig { next_hop_mtu_bytes: 1_452 },
                [0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0xac],
            ),
            (Error::TimeExceeded, [0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]),
        ] {
            let expected = [&message[..], &OFFENDER].concat();
            assert_eq!(build(error, &OFFENDER), expected, "{error:?}");
        }
    }

    #[test]
    fn a_large_offender_is_cut_so_that_the_whole_has_1280_bytes() {
        assert_eq!(build(Error::TimeExceeded, &[0x60; 65_535]).len(), 1_240);
    }

    fn answered(edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut packet = OFFENDER.to_vec();
        edit(&mut packet);
        let len = packet.len() as u16 - 40;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
        may_answer(&packet)
    }

    fn icmp(kind: u8) -> impl FnOnce(&mut Vec<u8>) {
        move |packet| {
            packet[6] = ip::PROTOCOL_ICMPV6;
            packet[40] = kind;
        }
    }

    #[test]
    fn an_ordinary_datagram_is_answered() {
        assert!(answered(|_| {}));
    }

    #[test]
    fn informational_messages_are_answered_and_errors_and_redirects_are_not() {
        for kind in [128, 129, 200] {
            assert!(answered(icmp(kind)), "type {kind}");
        }
        for kind in [1, 2, 3, 4, 100, 127, 137] {
            assert!(!answered(icmp(kind)), "type {kind}");
        }
        assert!(!answered(|packet| {
            packet[6] = ip::PROTOCOL_ICMPV6;
            packet.truncate(40);
        }));
    }

    #[test]
    fn an_error_behind_extension_headers_is_not_answered() {
        let behind = |kind: u8, fragment: u8| {
            answered(|packet| {
                packet[6] = 44;
                packet.splice(40..40, [58, 0, 0, fragment, 0, 0, 0, 1]);
                packet[48] = kind;
            })
        };
        assert!(behind(128, 1));
        assert!(!behind(3, 1));
        // What a later fragment is about cannot be told.
        assert!(!behind(128, 8));
    }

    #[test]
    fn nothing_is_said_to_or_about_what_is_not_one_host() {
        for text in ["::", "::1", "fe80::1", "ff02::1", "ff0e::1"] {
            let octets = text.parse::<Ipv6Addr>().unwrap().octets();
            assert!(!answered(|packet| packet[8..24].copy_from_slice(&octets)), "from {text}");
            assert!(!answered(|packet| packet[24..40].copy_from_slice(&octets)), "to {text}");
        }
    }
}
