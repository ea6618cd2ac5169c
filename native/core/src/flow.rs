//! Which of several sockets a packet leaves by: always the same one for a flow, to keep its order.
//!
//! Path of a packet: `outbound` → **`flow`** → `batch`.
//! Where the underlay has several ways, it tells flows apart by their outer ports; with a source
//! port per socket, those inside a tunnel are told apart too.
//!
//! Source: RFC 7348 §5 (source port from a hash of the inner headers), RFC 7424 §2 (only what all
//! fragments have in common may be hashed).

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
    let ports = ports(header, packet) << 8 | u64::from(header.protocol());
    let hash = (addresses ^ ports.wrapping_mul(SPREAD)).wrapping_mul(SPREAD) >> 32;
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
    let has_ports = matches!(header.protocol(), ip::PROTOCOL_TCP | ip::PROTOCOL_UDP);
    if !has_ports || header.is_fragment() {
        return 0;
    }
    let ports = packet.get(header.header_len()..).and_then(<[u8]>::first_chunk::<4>);
    ports.map_or(0, |ports| u32::from_be_bytes(*ports).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::transport_packet;
    use tunneld_wire::ipv4;

    fn path_of(packet: &[u8]) -> usize {
        path(&ipv4::Header::parse(packet).unwrap(), packet, 4)
    }

    /// A packet with a port that stands for a flow.
    fn numbered(number: u16) -> Vec<u8> {
        let mut packet = transport_packet(ip::PROTOCOL_UDP, &[], &[7; 33]);
        packet[20..22].copy_from_slice(&number.to_be_bytes());
        packet
    }

    #[test]
    fn flows_are_spread_evenly_over_all_paths() {
        let mut counts = [0; 4];
        for number in 0..4_000 {
            counts[path_of(&numbered(number))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn what_changes_within_a_flow_does_not_matter() {
        for number in 0..100 {
            let packet = numbered(number);
            let mut later = packet.clone();
            // Identification, type of service, hop limit, UDP length and checksum, payload.
            for place in [1, 4, 5, 8, 25, 26, 27, 40] {
                later[place] ^= 0x5a;
            }
            assert_eq!(path_of(&packet), path_of(&later));
        }
    }

    #[test]
    fn all_fragments_of_a_datagram_take_one_path() {
        for number in 0..100 {
            let mut first = numbered(number);
            first[6] = 0x20;
            let mut later = numbered(!number);
            later[6..8].copy_from_slice(&[0, 5]);
            assert_eq!(path_of(&first), path_of(&later));
        }
    }

    #[test]
    fn with_one_path_there_is_nothing_to_choose() {
        let packet = numbered(3);
        let header = ipv4::Header::parse(&packet).unwrap();
        assert_eq!((path(&header, &packet, 1), path(&header, &packet, 0)), (0, 0));
        // A header without what should follow it.
        assert!(path(&header, &packet[..20], 4) < 4);
    }
}
