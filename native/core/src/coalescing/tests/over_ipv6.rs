//! Joining over IPv6: what differs from IPv4.

use super::*;
use crate::testing::{fix_checksums_v6, over_ipv6};

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
                fix_checksums_v6(packet);
            });
        }
    }
}

/// Three packets of a flow behind a header of kind `kind` and `len` bytes, the second's with `last`
/// in its last byte.
fn extended(protocol: u8, kind: u8, len: usize, last: u8) -> Vec<Vec<u8>> {
    let mut packets = run_v6(protocol, 3, 100);
    for (number, packet) in packets.iter_mut().enumerate() {
        // Type 4, no segments left, of routing; an option to be skipped, of the others.
        let mut header = vec![packet[6], (len / 8 - 1) as u8, if kind == 43 { 4 } else { 0x1e }, 0];
        if kind != 43 {
            header[3] = (len - 4) as u8;
        }
        header.resize(len, 0);
        if number == 1 {
            header[len - 1] = last;
        }
        let payload_len = u16::from_be_bytes([packet[4], packet[5]]) + len as u16;
        packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
        packet[6] = kind;
        packet.splice(40..40, header);
    }
    packets
}

#[test]
fn packets_behind_the_same_options_and_routing_headers_are_joined() {
    for protocol in [TCP, UDP] {
        for (kind, len) in [(0, 8), (43, 24), (60, 8), (60, 128), (60, 256)] {
            let packets = extended(protocol, kind, len, 0);
            let bench = Bench::of(&packets);
            assert_eq!(bench.counts(), [3], "{kind}, {len} bytes");
            assert_eq!(bench.segmented(), packets);
            // A byte that differs, or a wrong checksum.
            let packets = extended(protocol, kind, len, 1);
            let bench = Bench::of(&packets);
            assert_eq!(bench.counts(), [1, 1, 1], "{kind}, {len} bytes");
            assert_eq!(bench.segmented(), packets);
            let mut packets = extended(protocol, kind, len, 0);
            packets[1][len + 90] ^= 1;
            let bench = Bench::of(&packets);
            assert_eq!(bench.counts(), [1, 1, 1], "{kind}, {len} bytes");
            assert_eq!(bench.segmented(), packets);
        }
    }
}

#[test]
fn what_the_kernel_does_not_segment_is_not_joined() {
    for protocol in [TCP, UDP] {
        // Mobility, host identity; and longer than there is room for.
        for (kind, len) in [(135, 8), (139, 8), (60, 264)] {
            let packets = extended(protocol, kind, len, 0);
            let bench = Bench::of(&packets);
            assert_eq!(bench.counts(), [1, 1, 1], "{kind}, {len} bytes");
            assert_eq!(bench.segmented(), packets);
        }
        // Authentication; a fragment header around a whole packet.
        for (kind, header) in [(51, [0, 0, 0, 0, 0, 0, 0]), (44, [0, 0, 0, 0, 0, 0, 9])] {
            let mut packets = run_v6(protocol, 3, 100);
            for packet in &mut packets {
                packet.splice(40..40, [&[packet[6]], &header[..]].concat());
                packet[6] = kind;
                packet[5] += 8;
            }
            assert_eq!(Bench::of(&packets).counts(), [1, 1, 1], "{kind}");
        }
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
