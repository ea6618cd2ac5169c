//! ICMP errors over IPv6: the counterpart of `icmp`.
//!
//! Path of a packet: `core::outbound` | `core::inbound` → **`wire::icmpv6`** → raw socket.
//!
//! Source: RFC 4443 §2.3 (checksum), §2.4 (e) (about what none is sent), §3.1, §3.2, §3.3.

use core::net::Ipv6Addr;

use crate::icmp::Error;
use crate::{ip, ipv6};

/// Largest ICMP error, its IP header included, in bytes: the smallest MTU of IPv6 (RFC 4443 §3).
pub const MAX_LEN: usize = 1_280;

const HEADER_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
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
/// returns its length in bytes.
///
/// As much of `offender` goes with it as fits. Ask [`may_answer`] first.
pub fn emit(
    error: Error,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    offender: &[u8],
    buffer: &mut [u8],
) -> usize {
    const PAYLOAD: usize = ipv6::Header::LEN + HEADER_LEN;
    let quoted = &offender[..offender.len().min(MAX_LEN - PAYLOAD)];
    let payload_len = (HEADER_LEN + quoted.len()) as u16;
    let header = ipv6::Header {
        header_len: ipv6::Header::LEN,
        class_and_label: 0,
        payload_len,
        hop_limit: HOP_LIMIT,
        protocol: ip::PROTOCOL_ICMPV6,
        fragment: 0,
        source,
        destination,
    };
    buffer[..ipv6::Header::LEN].copy_from_slice(&header.emit());
    let (kind, code, [r0, r1, r2, r3]) = fields(error);
    let mut message = [kind, code, 0, 0, r0, r1, r2, r3];
    let pseudo = ipv6::pseudo_header(&header, header.protocol).with_u16(payload_len);
    let checksum = pseudo.with(&message).with(quoted).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    buffer[ipv6::Header::LEN..PAYLOAD].copy_from_slice(&message);
    let total_len = PAYLOAD + quoted.len();
    buffer[PAYLOAD..total_len].copy_from_slice(quoted);
    total_len
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
