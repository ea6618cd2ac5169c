//! ICMP echo: what this host sends to find out what a path carries, and the answers it gets.
//!
//! Path of a packet: **`wire::echo`** → `core::outbound` → the peer's kernel → `core::inbound`.
//! Builds whole packets of either version, of any length; what is behind `data` is zeros.
//!
//! Source: RFC 792 (echo), RFC 4443 §4.

use core::net::IpAddr;

use crate::{checksum::Sum, ip, ipv4, ipv6};

/// Type, code, checksum, identifier and number.
const HEADER_LEN: usize = 8;

/// Types of the request and the reply, over IPv4 and over IPv6.
const REQUEST: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];

/// What an echo carries that tells whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<const N: usize> {
    /// Identifier.
    pub identifier: u16,
    /// Sequence number.
    pub number: u16,
    /// The first bytes of the data.
    pub data: [u8; N],
}

/// Returns the length of the shortest packet with `data_len` bytes of data, in bytes.
pub const fn min_len(is_ipv4: bool, data_len: usize) -> usize {
    let header = if is_ipv4 { ipv4::Header::LEN } else { ipv6::Header::LEN };
    header + HEADER_LEN + data_len
}

/// Writes a request that fills `packet`. Returns false, and writes nothing, where the addresses are
/// of two versions, or the packet is too short or too long.
pub fn emit_request<const N: usize>(
    echo: &Echo<N>,
    source: IpAddr,
    destination: IpAddr,
    packet: &mut [u8],
) -> bool {
    let Ok(total_len) = u16::try_from(packet.len()) else { return false };
    if packet.len() < min_len(source.is_ipv4(), N) {
        return false;
    }
    let (header_len, kind, pseudo) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = ipv4::Header::of_own(ip::PROTOCOL_ICMP, source, destination, total_len);
            let header = ipv4::Header { fragment: ipv4::FLAG_DONT_FRAGMENT, ..header };
            packet[..ipv4::Header::LEN].copy_from_slice(&header.emit());
            (ipv4::Header::LEN, REQUEST[0], Sum::new())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let payload_len = total_len - ipv6::Header::LEN as u16;
            let header = ipv6::Header {
                header_len: ipv6::Header::LEN,
                class_and_label: 0,
                payload_len,
                hop_limit: ip::HOP_LIMIT,
                protocol: ip::PROTOCOL_ICMPV6,
                fragment: 0,
                source,
                destination,
            };
            packet[..ipv6::Header::LEN].copy_from_slice(&header.emit());
            let pseudo = ipv6::pseudo_header(&header, header.protocol).with_u16(payload_len);
            (ipv6::Header::LEN, REQUEST[1], pseudo)
        }
        _ => return false,
    };
    let message = &mut packet[header_len..];
    message.fill(0);
    message[0] = kind;
    message[4..6].copy_from_slice(&echo.identifier.to_be_bytes());
    message[6..8].copy_from_slice(&echo.number.to_be_bytes());
    message[HEADER_LEN..HEADER_LEN + N].copy_from_slice(&echo.data);
    let checksum = pseudo.with(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// Returns what the reply in `packet` carries, whole or its first fragment; `None` where it is
/// something else. The checksum of a fragment cannot be checked, and so is none.
pub fn parse_reply<H: ip::Header, const N: usize>(header: &H, packet: &[u8]) -> Option<Echo<N>> {
    let kind = match header.protocol() {
        ip::PROTOCOL_ICMP => REPLY[0],
        ip::PROTOCOL_ICMPV6 => REPLY[1],
        _ => return None,
    };
    let message = packet.get(header.header_len()..)?;
    let [found, 0, _, _, i0, i1, n0, n1] = *message.first_chunk::<HEADER_LEN>()? else {
        return None;
    };
    let data = *message[HEADER_LEN..].first_chunk::<N>()?;
    let identifier = u16::from_be_bytes([i0, i1]);
    let number = u16::from_be_bytes([n0, n1]);
    (found == kind).then_some(Echo { identifier, number, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::Header as _;

    const ECHO: Echo<4> = Echo { identifier: 0x1234, number: 7, data: *b"data" };

    #[test]
    fn request_fills_the_packet_and_its_checksums_are_right() {
        let (source, destination) = ([10, 5, 1, 0].into(), [10, 5, 2, 0].into());
        for len in [32, 33, 1_472, 65_507] {
            let mut packet = vec![0xff; len];
            assert!(emit_request(&ECHO, source, destination, &mut packet));
            assert!(ipv4::verify_checksum(&packet[..20]));
            assert_eq!(ipv4::Header::parse(&packet).unwrap().total_len as usize, len);
            assert_eq!(
                packet[20..32],
                [8, 0, packet[22], packet[23], 0x12, 0x34, 0, 7, b'd', b'a', b't', b'a']
            );
            assert_eq!(Sum::new().with(&packet[20..]).checksum(), 0);
        }
        let mut short = vec![0; 31];
        assert!(!emit_request(&ECHO, source, destination, &mut short));
        assert!(!emit_request(&ECHO, source, "fd00::1".parse().unwrap(), &mut [0; 100]));
        assert!(!emit_request(&ECHO, source, destination, &mut vec![0; 65_536]));
    }

    #[test]
    fn request_over_ipv6_has_a_checksum_over_its_addresses() {
        let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let mut packet = vec![0; 1_280];
        assert!(emit_request(&ECHO, source, destination, &mut packet));
        let header = ipv6::Header::parse(&packet).unwrap();
        let pseudo = ipv6::pseudo_header(&header, 58).with_u16(1_240);
        assert_eq!(pseudo.with(&packet[40..]).checksum(), 0);
        assert_eq!(packet[40], 128);
    }

    #[test]
    fn reply_is_told_from_a_request_and_from_other_data() {
        for (source, reply, header_len) in [("10.5.1.0", 0, 20), ("fd00::1", 129, 40)] {
            let address: IpAddr = source.parse().unwrap();
            let mut packet = vec![0; 100];
            assert!(emit_request(&ECHO, address, address, &mut packet));
            let parsed = |packet: &[u8]| {
                if address.is_ipv4() {
                    parse_reply::<_, 4>(&ipv4::Header::parse(packet).unwrap(), packet)
                } else {
                    parse_reply::<_, 4>(&ipv6::Header::parse(packet).unwrap(), packet)
                }
            };
            assert_eq!(parsed(&packet), None);
            packet[header_len] = reply;
            assert_eq!(parsed(&packet), Some(ECHO));
            packet[header_len + 1] = 1;
            assert_eq!(parsed(&packet), None);
        }
        let header =
            ipv4::Header::parse(&[0x45, 0, 0, 20, 0, 0, 0, 0, 64, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
                .unwrap();
        assert_eq!(header.header_len(), 20);
        assert_eq!(parse_reply::<_, 4>(&header, &[0; 31]), None);
    }
}
