//! Outbound over IPv6.

use tunneld_wire::ipv6;

use super::*;
use crate::testing::{dual_stack, make_partial, over_ipv6, transport_packet, vnet};

fn bench() -> Bench {
    let mut tables = Tables::new(1);
    let fib = tables.commit(dual_stack(SourceCheck::Strict)).unwrap();
    Bench { outbound: Outbound::new(0, Arc::default()), fib, tables }
}

/// A UDP packet over IPv6 of `len` bytes, from and to what stands for those addresses.
fn packet_v6(source: [u8; 4], destination: [u8; 4], hop_limit: u8, len: usize) -> Vec<u8> {
    over_ipv6(&packet(source, destination, hop_limit, len - 20))
}

#[track_caller]
fn answered(packet: &[u8], reason: DropReason, kind: [u8; 2], field: [u8; 4]) {
    let mut bench = bench();
    bench.handle(packet);
    bench.dropped(reason);
    let replies: Vec<_> = bench.outbound.replies().iter().collect();
    let [(std::net::IpAddr::V6(to), reply)] = replies[..] else { panic!("one reply") };
    assert_eq!(to.octets(), packet[8..24]);
    assert_eq!((&reply[..2], &reply[4..8]), (&kind[..], &field[..]));
    assert_eq!(reply[8..], packet[..packet.len().min(1_232)]);
}

#[test]
fn a_packet_for_a_peer_goes_to_its_endpoint_one_hop_older() {
    let mut bench = bench();
    bench.handle(&packet_v6(CONTAINER, AT_B, 64, 100));
    assert_eq!(bench.sent(), [packet_v6(CONTAINER, AT_B, 63, 100)]);
}

#[test]
fn both_families_share_a_train() {
    let mut bench = bench();
    bench.handle(&packet(CONTAINER, AT_B, 64, 100));
    bench.handle(&packet_v6(CONTAINER, AT_B, 64, 100));
    let trains = bench.outbound.batch().queues()[0].trains();
    assert_eq!((trains.len(), trains[0].count), (1, 2));
}

#[test]
fn an_unleased_destination_has_no_route() {
    let packet = packet_v6(CONTAINER, NOWHERE, 64, 100);
    answered(&packet, DropReason::NoRoute, [1, 0], [0; 4]);
}

#[test]
fn the_last_hop_is_not_taken() {
    for hop_limit in [0, 1] {
        let packet = packet_v6(CONTAINER, AT_B, hop_limit, 100);
        answered(&packet, DropReason::HopLimitExceeded, [3, 0], [0; 4]);
    }
}

#[test]
fn what_is_too_big_is_told_the_mtu_and_never_fragmented() {
    let packet = packet_v6(CONTAINER, AT_C, 64, 1_401);
    answered(&packet, DropReason::TooBig, [2, 0], [0, 0, 0x05, 0x78]);
    let mut bench = bench();
    bench.handle(&packet_v6(CONTAINER, AT_C, 64, 1_400));
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn what_may_not_leave_its_link_is_no_fault() {
    let with = |place: std::ops::Range<usize>, text: &str| {
        let mut packet = packet_v6(CONTAINER, AT_B, 1, 100);
        packet[place].copy_from_slice(&text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let mut bench = bench();
        bench.handle(&packet);
        bench.dropped(DropReason::NotRoutable);
        assert!(bench.replies().is_empty());
    };
    // A router solicitation, a listener report, address detection, a neighbour of the link.
    for text in ["ff02::2", "ff02::16", "fe80::1", "ff0e::1", "::1"] {
        with(24..40, text);
    }
    for text in ["fe80::1", "::", "::1"] {
        with(8..24, text);
    }
}

#[test]
fn a_family_that_the_network_has_not_is_dropped() {
    dropped_without_a_word(&packet_v6(CONTAINER, AT_B, 64, 100), DropReason::Ipv6Disabled);
    let mut change = dual_stack(SourceCheck::Strict);
    change.settings.as_mut().unwrap().icmp_source = None;
    let mut tables = Tables::new(1);
    let fib = tables.commit(change).unwrap();
    let mut bench = Bench { outbound: Outbound::new(0, Arc::default()), fib, tables };
    bench.handle(&packet(CONTAINER, AT_B, 64, 100));
    bench.dropped(DropReason::Ipv4Disabled);
}

#[test]
fn malformed_packets_are_counted() {
    for packet in [&[0x60; 39][..], &[0x60; 60]] {
        let mut bench = bench();
        bench.handle(packet);
        bench.dropped(DropReason::Malformed);
    }
}

/// The way out of a container at A.
fn from_container(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = transport_packet(protocol, &[], payload);
    packet[12..16].copy_from_slice(&CONTAINER);
    packet[16..20].copy_from_slice(&AT_B);
    over_ipv6(&packet)
}

#[test]
fn a_super_packet_leaves_as_a_train_of_right_segments() {
    for (protocol, gso, headers_len) in
        [(ip::PROTOCOL_TCP, Gso::TcpV6, 60), (ip::PROTOCOL_UDP, Gso::UdpL4, 48)]
    {
        let mut bench = bench();
        let mut whole = from_container(protocol, &[7; 10_100]);
        let vnet = vnet(gso, 1_000, 40);
        make_partial(&vnet, &mut whole);
        bench.handle_with(vnet, &whole);
        let sent = bench.sent();
        assert_eq!(sent.len(), 11);
        for segment in &sent {
            let header = ipv6::Header::parse(segment).unwrap();
            assert_eq!((header.hop_limit, header.class_and_label), (62, 0x0000_2345));
            let transport = &segment[40..];
            let sum = ipv6::pseudo_header(&header, protocol).with_u16(transport.len() as u16);
            assert_eq!(sum.with(transport).fold(), 0xffff);
        }
        let payload: Vec<u8> = sent.iter().flat_map(|part| part[headers_len..].to_vec()).collect();
        assert_eq!(payload, [7; 10_100]);
    }
}

#[test]
fn super_packets_keep_to_their_family() {
    for (gso, packet) in [
        (Gso::TcpV4, from_container(ip::PROTOCOL_TCP, &[7; 3_000])),
        (Gso::TcpV6, packet(CONTAINER, AT_B, 64, 3_000)),
    ] {
        let mut bench = bench();
        let vnet = vnet(gso, 1_000, 40);
        bench.handle_with(vnet, &packet);
        bench.dropped(DropReason::Malformed);
    }
}

#[test]
fn extension_headers_go_on_every_segment() {
    let mut bench = bench();
    let mut whole = from_container(ip::PROTOCOL_TCP, &[7; 3_000]);
    let len = u16::from_be_bytes([whole[4], whole[5]]) + 8;
    whole[4..6].copy_from_slice(&len.to_be_bytes());
    whole.splice(40..40, [whole[6], 0, 1, 4, 0, 0, 0, 0]);
    whole[6] = 60;
    let vnet = vnet(Gso::TcpV6, 1_000, 48);
    make_partial(&vnet, &mut whole);
    bench.handle_with(vnet, &whole);
    let sent = bench.sent();
    assert_eq!(sent.len(), 3);
    for segment in sent {
        let header = ipv6::Header::parse(&segment).unwrap();
        assert_eq!((segment[6], header.header_len), (60, 48));
        let sum = ipv6::pseudo_header(&header, 6).with_u16(1_020).with(&segment[48..]);
        assert_eq!(sum.fold(), 0xffff);
    }
}

/// A super-packet of three segments with `extensions` in front of its TCP header, which is the last
/// one's next header, and what the device says of it.
fn extended(first: u8, extensions: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut whole = from_container(ip::PROTOCOL_TCP, &[7; 3_000]);
    let len = u16::from_be_bytes([whole[4], whole[5]]) + extensions.len() as u16;
    whole[4..6].copy_from_slice(&len.to_be_bytes());
    whole.splice(40..40, extensions.iter().copied());
    let vnet = vnet(Gso::TcpV6, 1_000, 40 + extensions.len() as u16);
    make_partial(&vnet, &mut whole);
    whole[6] = first;
    (vnet, whole)
}

#[test]
fn headers_of_any_length_go_on_every_segment() {
    // Destination options of 256 bytes, eight times as many headers as are walked over, and one
    // that nobody knows.
    let long: Vec<u8> = [&[6, 31, 1, 252][..], &[0; 252]].concat();
    let many: Vec<u8> =
        (0..64).flat_map(|n| [if n == 63 { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]).collect();
    let unknown = vec![6, 0, 0xaa, 0xbb, 1, 2, 3, 4];
    for (first, extensions) in [(60, long), (60, many), (253, unknown)] {
        let mut bench = bench();
        if extensions.len() > 256 {
            let mut change = dual_stack(SourceCheck::Strict);
            change.put_adjacencies[0].1.mtu_bytes = 1_600;
            bench.fib = Tables::new(1).commit(change).unwrap();
        }
        let (vnet, whole) = extended(first, &extensions);
        bench.handle_with(vnet, &whole);
        let sent = bench.sent();
        assert_eq!(sent.len(), 3);
        let start = 40 + extensions.len();
        for segment in sent {
            assert_eq!((segment[6], &segment[40..start]), (first, &extensions[..]));
            let header = ipv6::Header::parse(&segment).unwrap();
            let sum = ipv6::pseudo_header(&header, 6).with_u16(1_020).with(&segment[start..]);
            assert_eq!(sum.fold(), 0xffff);
        }
    }
}

#[test]
fn a_checksum_covers_what_the_device_says_not_where_the_packet_goes_next() {
    // RFC 8754: the packet goes to the active segment; the checksum covers the last destination.
    let mut last: Vec<u8> = over_ipv6(&packet(CONTAINER, [10, 5, 9, 9], 64, 20))[24..40].to_vec();
    let mut routing = vec![6, 4, 4, 1, 1, 0, 0, 0];
    routing.append(&mut last.clone());
    routing.append(&mut vec![0xfd; 16]);
    let mut bench = bench();
    let (vnet, mut whole) = extended(43, &routing);
    let active = whole[24..40].to_vec();
    whole[24..40].swap_with_slice(&mut last);
    make_partial(&vnet, &mut whole);
    whole[24..40].copy_from_slice(&active);
    bench.handle_with(vnet, &whole);
    let sent = bench.sent();
    assert_eq!(sent.len(), 3);
    for mut segment in sent {
        segment[24..40].copy_from_slice(&routing[8..24]);
        let header = ipv6::Header::parse(&segment).unwrap();
        let sum = ipv6::pseudo_header(&header, 6).with_u16(1_020).with(&segment[80..]);
        assert_eq!(sum.fold(), 0xffff);
    }
}

#[test]
fn a_partial_checksum_is_finished() {
    let mut bench = bench();
    let right = from_container(ip::PROTOCOL_UDP, &[9; 33]);
    let mut packet = right.clone();
    let header = ipv6::Header::parse(&packet).unwrap();
    let pseudo = ipv6::pseudo_header(&header, 17).with_u16(41).fold();
    packet[46..48].copy_from_slice(&pseudo.to_be_bytes());
    let vnet =
        VnetHeader { flags: 1, checksum_start: 40, checksum_offset: 6, ..VnetHeader::default() };
    bench.handle_with(vnet, &packet);
    assert_eq!(bench.sent()[0][40..], right[40..]);
}
