//! Joining over IPv6: what differs from IPv4.

use super::*;
use crate::testing::{finish_v6, over_ipv6};

fn run_v6(protocol: u8, count: usize, payload_len: usize) -> Vec<Vec<u8>> {
    run(protocol, count, payload_len).iter().map(|packet| over_ipv6(packet)).collect()
}

#[track_caller]
fn must_not_merge_v6(protocol: u8, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut packets = run_v6(protocol, 2, 100);
    assert_eq!(Bench::of(&packets).counts(), [2]);
    edit(&mut packets[1]);
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [1, 1]);
    let written: Vec<_> = bench.written().into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(written, packets);
}

#[test]
fn packets_of_a_flow_become_one_super_packet_and_come_apart_again() {
    for protocol in [TCP, UDP] {
        let packets = run_v6(protocol, 10, 1_000);
        let bench = Bench::of(&packets);
        assert_eq!(bench.counts(), [10]);
        assert_eq!(bench.segmented(), packets);
    }
}

#[test]
fn headers_of_a_super_packet_leave_the_checksum_to_the_device() {
    for (protocol, gso, headers_len, offset) in
        [(TCP, Gso::TcpV6, 60, 16), (UDP, Gso::UdpL4, 48, 6)]
    {
        let bench = Bench::of(&run_v6(protocol, 3, 100));
        let [(Some(headers), bytes)] = &bench.written()[..] else { panic!("one super-packet") };
        let vnet = headers.vnet;
        assert_eq!((vnet.flags, vnet.gso, vnet.gso_size), (1, gso, 100));
        assert_eq!((vnet.header_len, vnet.checksum_start), (headers_len, 40));
        assert_eq!(vnet.checksum_offset, offset);
        let header = ipv6::Header::parse(bytes).unwrap();
        let transport_len = headers_len - 40 + 300;
        assert_eq!(header.payload_len, transport_len);
        let pseudo = ipv6::pseudo_header(&header, protocol).with_u16(transport_len).fold();
        let field = 40 + usize::from(offset);
        assert_eq!(bytes[field..field + 2], pseudo.to_be_bytes());
    }
}

#[test]
fn class_label_hop_limit_addresses_and_ports_must_be_equal() {
    // Traffic class; ECN; flow label; hop limit; both addresses; both ports.
    for (place, flip) in [
        (0, 0x01),
        (1, 0x80),
        (1, 0x10),
        (1, 0x01),
        (3, 0x01),
        (7, 0x01),
        (8, 0x01),
        (15, 0x01),
        (16, 0x01),
        (23, 0x01),
        (24, 0x01),
        (39, 0x01),
        (41, 0x01),
        (43, 0x01),
    ] {
        for protocol in [TCP, UDP] {
            must_not_merge_v6(protocol, |packet| {
                packet[place] ^= flip;
                finish_v6(packet);
            });
        }
    }
}

#[test]
fn extension_headers_are_not_joined() {
    for protocol in [TCP, UDP] {
        let mut packets = run_v6(protocol, 3, 100);
        for packet in &mut packets {
            packet.splice(40..40, [packet[6], 0, 1, 4, 0, 0, 0, 0]);
            packet[6] = 60;
            packet[5] += 8;
        }
        let bench = Bench::of(&packets);
        assert_eq!(bench.counts(), [1, 1, 1]);
        assert_eq!(bench.segmented(), packets);
    }
}

#[test]
fn a_datagram_without_checksum_is_neither_joined_nor_changed() {
    must_not_merge_v6(UDP, |packet| packet[46..48].fill(0));
}

#[test]
fn a_wrong_checksum_is_never_joined_and_comes_out_as_it_was() {
    for protocol in [TCP, UDP] {
        for bad in 0..3 {
            for place in [47, 60, 99, 139] {
                let mut packets = run_v6(protocol, 3, 100);
                packets[bad][place] ^= 0x20;
                assert_eq!(Bench::of(&packets).segmented(), packets, "packet {bad}, byte {place}");
                assert!(Bench::of(&packets).counts().len() > 1);
            }
        }
    }
}

#[test]
fn fragments_are_not_joined_and_nothing_overtakes_them() {
    let mut packets = run_v6(UDP, 3, 100);
    let next_header = packets[1][6];
    packets[1].splice(40..40, [next_header, 0, 0, 1, 0, 0, 0, 9]);
    packets[1][6] = 44;
    packets[1][5] += 8;
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [1, 1, 1]);
    assert_eq!(bench.segmented(), packets);
}

#[test]
fn families_are_not_joined_even_with_the_same_ports() {
    let four = run(TCP, 2, 100);
    let six = run_v6(TCP, 2, 100);
    let packets = [four[0].clone(), six[0].clone(), four[1].clone(), six[1].clone()];
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [2, 2]);
    assert_eq!(bench.segmented(), [four, six].concat());
}
