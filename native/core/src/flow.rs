//! Which of several sockets a packet leaves by: always the same one for a flow, to keep its order.
//!
//! Path of a packet: `outbound` → **`flow`** → `batch`.
//! Where the underlay has several ways, it tells flows apart by their outer ports; with a source
//! port per socket, those inside a tunnel are told apart too.
//!
//! Only what all packets of a flow have in common is hashed, whatever they look like. A sender of
//! UDP fragments what is large, and only that: of all but TCP the addresses count. TCP cuts by
//! itself, and says so of each packet (DF); over IPv6 nobody else may.
//!
//! Source: RFC 7348 §5 (source port from a hash of the inner headers), RFC 7424 §2 (only what all
//! fragments have in common may be hashed), RFC 6438 §2.

use std::net::IpAddr;

use tunneld_wire::ip;

/// An odd number whose multiples spread well. Source: Knuth, The Art of Computer Programming 3, §6.4.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Returns the number of the path, below `paths`, for the flow of this packet.
pub fn path<H: ip::Header>(header: &H, packet: &[u8], paths: usize) -> usize {
    if paths <= 1 {
        return 0;
    }
    let addresses =
        folded(header.source().into()).rotate_left(32) ^ folded(header.destination().into());
    let hash = (addresses ^ ports(header, packet).wrapping_mul(SPREAD)).wrapping_mul(SPREAD) >> 32;
    ((hash * paths as u64) >> 32) as usize
}

/// Returns an address in 64 bits: of IPv6 the subnet and the host, one over the other.
const fn folded(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u64,
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64 ^ address.to_bits() as u64,
    }
}

/// Returns both ports, where every packet of the flow has them.
fn ports<H: ip::Header>(header: &H, packet: &[u8]) -> u64 {
    if header.protocol() != ip::PROTOCOL_TCP || header.is_fragment() || !header.dont_fragment() {
        return 0;
    }
    let ports = packet.get(header.header_len()..).and_then(<[u8]>::first_chunk::<4>);
    ports.map_or(0, |ports| u32::from_be_bytes(*ports).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::transport_packet;
    use tunneld_wire::{ipv4, ipv6};

    fn path_of(packet: &[u8]) -> usize {
        path(&ipv4::Header::parse(packet).unwrap(), packet, 4)
    }

    fn path_of_v6(packet: &[u8]) -> usize {
        path(&ipv6::Header::parse(packet).unwrap(), packet, 4)
    }

    /// A packet between two hosts of their own and from a port of its own, which stand for a flow.
    fn numbered(protocol: u8, number: u16) -> Vec<u8> {
        let mut packet = transport_packet(protocol, &[], &[7; 33]);
        packet[6] |= 0x40;
        packet[14..16].copy_from_slice(&number.to_be_bytes());
        packet[20..22].copy_from_slice(&number.to_be_bytes());
        packet
    }

    /// A packet over IPv6 with extension headers, each as its type and its bytes behind the first.
    fn numbered_v6(extensions: &[(u8, [u8; 7])], protocol: u8, number: u16) -> Vec<u8> {
        let mut chain: Vec<u8> = extensions.iter().map(|(kind, _)| *kind).collect();
        chain.push(protocol);
        let mut packet = vec![0x60, 0, 0, 0, 0, (8 * extensions.len() + 20) as u8, chain[0], 64];
        packet.extend([0xfd, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(number.to_be_bytes());
        packet.extend([0xfd, 0, 0, 5, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        for ((_, rest), next) in extensions.iter().zip(&chain[1..]) {
            packet.push(*next);
            packet.extend(rest);
        }
        packet.extend(number.to_be_bytes());
        packet.resize(packet.len() + 18, 7);
        packet
    }

    #[test]
    fn flows_are_spread_evenly_over_all_paths() {
        for protocol in [ip::PROTOCOL_TCP, ip::PROTOCOL_UDP] {
            let (mut counts, mut counts_v6) = ([0; 4], [0; 4]);
            for number in 0..4_000 {
                counts[path_of(&numbered(protocol, number))] += 1;
                counts_v6[path_of_v6(&numbered_v6(&[], protocol, number))] += 1;
            }
            for counts in [counts, counts_v6] {
                assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
            }
        }
    }

    #[test]
    fn connections_between_two_hosts_are_spread_too() {
        let mut used = [false; 4];
        for port in 0..100u16 {
            let mut packet = numbered(ip::PROTOCOL_TCP, 1);
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            used[path_of(&packet)] = true;
        }
        assert_eq!(used, [true; 4]);
    }

    #[test]
    fn what_changes_within_a_flow_does_not_matter() {
        for number in 0..100 {
            let packet = numbered(ip::PROTOCOL_TCP, number);
            let mut later = packet.clone();
            // Type of service, identification, hop limit, sequence, payload.
            for place in [1, 4, 5, 8, 25, 26, 27, 40] {
                later[place] ^= 0x5a;
            }
            assert_eq!(path_of(&packet), path_of(&later));
        }
    }

    #[test]
    fn whole_datagrams_and_fragments_of_a_flow_take_one_path() {
        for protocol in [ip::PROTOCOL_UDP, 1, 50, 132] {
            for number in 0..100 {
                let whole = numbered(protocol, number);
                // May be fragmented; the first fragment; a later one, with anything for ports.
                for fragment in [[0, 0], [0x20, 0], [0x20, 185], [0, 185]] {
                    let mut packet = whole.clone();
                    packet[6..8].copy_from_slice(&fragment);
                    if fragment[1] > 0 {
                        packet[20..24].copy_from_slice(&[9; 4]);
                    }
                    assert_eq!(path_of(&packet), path_of(&whole), "{protocol} {fragment:?}");
                }
            }
        }
    }

    #[test]
    fn over_ipv6_extension_headers_and_fragments_take_the_path_of_the_whole() {
        let options = (60, [0, 1, 4, 0, 0, 0, 0]);
        let hops = (0, [0, 1, 4, 0, 0, 0, 0]);
        let first = (44, [0, 0, 1, 0, 0, 0, 7]);
        let later = (44, [0, 5, 0xa8, 0, 0, 0, 7]);
        for number in 0..100 {
            let whole = path_of_v6(&numbered_v6(&[], ip::PROTOCOL_UDP, number));
            for extensions in
                [&[options][..], &[hops], &[hops, options], &[first], &[later], &[hops, first]]
            {
                let packet = numbered_v6(extensions, ip::PROTOCOL_UDP, number);
                assert_eq!(path_of_v6(&packet), whole, "{extensions:?}");
            }
            // A later fragment of one whose options are in the part that is cut.
            let mut packet = numbered_v6(&[later], 60, number);
            packet[48..50].copy_from_slice(&[0xff; 2]);
            assert_eq!(path_of_v6(&packet), whole);
            let tcp = path_of_v6(&numbered_v6(&[], ip::PROTOCOL_TCP, number));
            for extensions in [&[options][..], &[hops], &[hops, options]] {
                let packet = numbered_v6(extensions, ip::PROTOCOL_TCP, number);
                assert_eq!(path_of_v6(&packet), tcp, "{extensions:?}");
            }
        }
    }

    #[test]
    fn with_one_path_there_is_nothing_to_choose() {
        let packet = numbered(ip::PROTOCOL_TCP, 3);
        let header = ipv4::Header::parse(&packet).unwrap();
        assert_eq!((path(&header, &packet, 1), path(&header, &packet, 0)), (0, 0));
        // A header without what should follow it.
        assert!(path(&header, &packet[..20], 4) < 4);
    }
}
