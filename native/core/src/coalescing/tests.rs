mod identity;
mod over_ipv6;

use std::net::Ipv4Addr;

use tunneld_wire::{ipv4, ipv6};

use super::candidate::VERIFIED;
use super::*;
use crate::fib::{Fib, SourceCheck};
use crate::testing::{
    UNDERLAY_B, UNDERLAY_C, fix_checksums, host_a, segmentation, transport_packet,
};

const TCP: u8 = ip::PROTOCOL_TCP;
const UDP: u8 = ip::PROTOCOL_UDP;
const BOTH: Kinds = Kinds { tcp: true, udp: true };

/// Packets in one memory, and what became of them.
struct Bench {
    coalescing: Deliveries,
    memory: Vec<u8>,
    fib: Fib,
}

impl Bench {
    fn new(kinds: Kinds) -> Self {
        let mut coalescing = Deliveries::default();
        coalescing.set_kinds(kinds);
        Self { coalescing, memory: Vec::new(), fib: host_a(SourceCheck::Strict).1 }
    }

    fn of(packets: &[Vec<u8>]) -> Self {
        let mut bench = Self::new(BOTH);
        packets.iter().for_each(|packet| bench.push(packet));
        bench
    }

    fn push(&mut self, packet: &[u8]) {
        self.push_from(packet, UNDERLAY_B);
    }

    fn push_from(&mut self, packet: &[u8], peer: Ipv4Addr) {
        let place = self.memory.len()..self.memory.len() + packet.len();
        self.memory.extend(packet);
        let adjacency = self.fib.by_endpoint(peer.into());
        let (memory, vnet) = (&self.memory, VnetHeader::default());
        if packet[0] >> 4 == 6 {
            let header = ipv6::Header::parse(packet).unwrap();
            self.coalescing.push(memory, place, &header, adjacency, vnet);
        } else {
            let header = ipv4::Header::parse(packet).unwrap();
            self.coalescing.push(memory, place, &header, adjacency, vnet);
        }
    }

    /// Number of packets in each delivery.
    fn counts(&self) -> Vec<usize> {
        self.coalescing.iter().map(|delivery| delivery.count).collect()
    }

    /// What the device gets for each delivery: one packet, or a super-packet.
    fn written(&self) -> Vec<(Option<Headers>, Vec<u8>)> {
        let write = |delivery| {
            let headers = self.coalescing.headers(delivery, &self.memory);
            let mut bytes = headers.as_ref().map_or(Vec::new(), |h| h.as_bytes().to_vec());
            let skip = headers.as_ref().map_or(0, |headers| headers.len);
            for place in self.coalescing.packets(delivery) {
                bytes.extend(&self.memory[place][skip..]);
            }
            (headers, bytes)
        };
        self.coalescing.iter().map(write).collect()
    }

    /// The packets as they come out behind the device, where super-packets are segmented.
    fn segmented(&self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (headers, bytes) in self.written() {
            let Some(headers) = headers else {
                packets.push(bytes);
                continue;
            };
            let cut = segmentation(&headers.vnet, &bytes, false).unwrap();
            for index in 0..cut.count() {
                let mut slot = vec![0; cut.segment_len(index)];
                cut.write(&bytes, index, &mut slot);
                packets.push(slot);
            }
        }
        packets
    }
}

/// Changes packet number `number` of its flow into the one that follows `number` equal ones.
fn follow(packet: &mut [u8], number: usize, payload_len: usize) {
    let identification = 0x1234u16.wrapping_add(number as u16);
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    if packet[9] == TCP {
        let sequence = 0x1234_5678u32.wrapping_add((number * payload_len) as u32);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    }
    fix_checksums(packet);
}

/// `count` packets of a flow that may all be joined.
fn run(protocol: u8, count: usize, payload_len: usize) -> Vec<Vec<u8>> {
    let make = |number: usize| {
        let payload: Vec<u8> = (0..payload_len).map(|place| (place ^ number) as u8).collect();
        let mut packet = transport_packet(protocol, &[], &payload);
        follow(&mut packet, number, payload_len);
        packet
    };
    (0..count).map(make).collect()
}

#[test]
fn packets_of_a_flow_become_one_super_packet_and_come_apart_again() {
    for protocol in [TCP, UDP] {
        let packets = run(protocol, 10, 1_000);
        let bench = Bench::of(&packets);
        assert_eq!(bench.counts(), [10]);
        assert_eq!(bench.segmented(), packets);
    }
}

#[test]
fn headers_of_a_super_packet_leave_the_checksum_to_the_device() {
    let bench = Bench::of(&run(TCP, 3, 100));
    let [(Some(headers), bytes)] = &bench.written()[..] else { panic!("one super-packet") };
    let vnet = headers.vnet;
    assert_eq!((vnet.flags, vnet.header_len, vnet.gso_size), (1, 40, 100));
    assert_eq!((vnet.checksum_start, vnet.checksum_offset), (20, 16));
    let header = ipv4::Header::parse(bytes).unwrap();
    assert_eq!(usize::from(header.total_len), 40 + 300);
    assert!(ipv4::verify_checksum(&bytes[..20]));
    let pseudo = ipv4::pseudo_header(&header, TCP).with_u16(320).fold();
    assert_eq!(bytes[36..38], pseudo.to_be_bytes());
}

#[test]
fn only_the_kinds_that_are_on_are_joined() {
    for (kinds, protocol) in [
        (Kinds { tcp: true, udp: false }, UDP),
        (Kinds { tcp: false, udp: true }, TCP),
        (Kinds::default(), TCP),
    ] {
        let mut bench = Bench::new(kinds);
        run(protocol, 3, 100).iter().for_each(|packet| bench.push(packet));
        assert_eq!(bench.counts(), [1, 1, 1]);
    }
}

#[test]
fn at_most_64_packets_are_joined() {
    for protocol in [TCP, UDP] {
        assert_eq!(Bench::of(&run(protocol, 130, 100)).counts(), [64, 64, 2]);
    }
}

#[test]
fn a_super_packet_is_at_most_65_535_bytes() {
    let bench = Bench::of(&run(TCP, 47, 1_432));
    assert_eq!(bench.counts(), [45, 2]);
    assert!(bench.written().iter().all(|(_, bytes)| bytes.len() <= 65_535));
}

#[test]
fn a_shorter_packet_closes_a_super_packet() {
    for protocol in [TCP, UDP] {
        let mut packets = run(protocol, 4, 100);
        let mut short = transport_packet(protocol, &[], &[9; 40]);
        follow(&mut short, 2, 100);
        packets[2] = short;
        if protocol == TCP {
            // Fits right behind the short one.
            let sequence = 0x1234_5678u32 + 240;
            packets[3][24..28].copy_from_slice(&sequence.to_be_bytes());
            fix_checksums(&mut packets[3]);
        }
        let bench = Bench::of(&packets);
        assert_eq!(bench.counts(), [3, 1]);
        assert_eq!(bench.segmented(), packets);
    }
}

#[test]
fn a_push_ends_a_super_packet_and_is_kept() {
    let mut packets = run(TCP, 4, 100);
    packets[1][33] |= 0x08;
    fix_checksums(&mut packets[1]);
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [2, 2]);
    assert_eq!(bench.segmented(), packets);
}

/// Two packets of a flow, the second edited: joined if nothing is edited, else not, and both come
/// out as they were.
#[track_caller]
fn must_not_merge(protocol: u8, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut packets = run(protocol, 2, 100);
    assert_eq!(Bench::of(&packets).counts(), [2]);
    edit(&mut packets[1]);
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [1, 1]);
    let written: Vec<_> = bench.written().into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(written, packets);
}

#[track_caller]
fn byte_must_not_merge(protocol: u8, place: usize, flip: u8) {
    must_not_merge(protocol, |packet| {
        packet[place] ^= flip;
        fix_checksums(packet);
    });
}

#[test]
fn addresses_must_be_equal() {
    for place in [12, 15, 16, 19] {
        byte_must_not_merge(TCP, place, 1);
        byte_must_not_merge(UDP, place, 1);
    }
}

#[test]
fn ports_must_be_equal() {
    for place in [20, 21, 22, 23] {
        byte_must_not_merge(TCP, place, 1);
        byte_must_not_merge(UDP, place, 1);
    }
}

#[test]
fn type_of_service_must_be_equal() {
    // DSCP, and each ECN bit.
    for flip in [0x04, 0x01, 0x02] {
        byte_must_not_merge(TCP, 1, flip);
        byte_must_not_merge(UDP, 1, flip);
    }
}

#[test]
fn hop_limit_must_be_equal() {
    byte_must_not_merge(TCP, 8, 1);
    byte_must_not_merge(UDP, 8, 1);
}

#[test]
fn dont_fragment_and_the_reserved_flag_must_be_equal() {
    for flip in [0x40, 0x80] {
        byte_must_not_merge(TCP, 6, flip);
        byte_must_not_merge(UDP, 6, flip);
    }
}

#[test]
fn identification_must_count_on_where_it_means_something() {
    for protocol in [TCP, UDP] {
        let fragmentable = |packet: &mut Vec<u8>| {
            packet[6] &= !0x40;
            fix_checksums(packet);
        };
        let mut packets = run(protocol, 2, 100);
        packets.iter_mut().for_each(fragmentable);
        assert_eq!(Bench::of(&packets).counts(), [2]);
        packets[1][5] ^= 0x10;
        fix_checksums(&mut packets[1]);
        assert_eq!(Bench::of(&packets).counts(), [1, 1]);
    }
}

#[test]
fn identification_of_an_atomic_datagram_means_nothing() {
    // Linux sends 0 in every datagram of an unconnected socket.
    let mut packets = run(UDP, 3, 100);
    for packet in &mut packets {
        packet[4..6].fill(0);
        fix_checksums(packet);
    }
    assert_eq!(Bench::of(&packets).counts(), [3]);
}

#[test]
fn sequence_must_follow_without_gap_or_overlap() {
    byte_must_not_merge(TCP, 27, 1);
    byte_must_not_merge(TCP, 24, 0x80);
}

#[test]
fn acknowledgment_window_and_urgent_pointer_must_be_equal() {
    for place in [28, 31, 34, 35, 38, 39] {
        byte_must_not_merge(TCP, place, 1);
    }
}

#[test]
fn flags_other_than_ack_and_psh_are_not_joined() {
    // FIN, SYN, RST, URG, ECE, CWR; and the reserved bits.
    for flip in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        byte_must_not_merge(TCP, 33, flip);
    }
    byte_must_not_merge(TCP, 33, 0x10);
    byte_must_not_merge(TCP, 32, 0x01);
}

#[test]
fn tcp_options_must_be_equal_byte_by_byte() {
    let timestamps = |value: u8| [1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 9];
    let pair = |second: &[u8]| {
        let mut packets = [
            transport_packet(TCP, &timestamps(1), &[7; 100]),
            transport_packet(TCP, second, &[7; 100]),
        ];
        follow(&mut packets[1], 1, 100);
        Bench::of(&packets).counts()
    };
    assert_eq!(pair(&timestamps(1)), [2]);
    assert_eq!(pair(&timestamps(2)), [1, 1]);
    assert_eq!(pair(&[]), [1, 1]);
    assert_eq!(pair(&[&timestamps(1)[..], &[1; 4]].concat()), [1, 1]);
}

#[test]
fn a_longer_packet_is_not_joined_to_a_shorter_one() {
    for protocol in [TCP, UDP] {
        must_not_merge(protocol, |packet| {
            let mut longer = transport_packet(protocol, &[], &[7; 101]);
            follow(&mut longer, 1, 100);
            *packet = longer;
        });
    }
}

#[test]
fn pure_acknowledgments_are_not_joined() {
    must_not_merge(TCP, |packet| {
        let mut empty = transport_packet(TCP, &[], &[]);
        follow(&mut empty, 1, 100);
        *packet = empty;
    });
}

#[test]
fn empty_datagrams_are_not_joined() {
    must_not_merge(UDP, |packet| {
        let mut empty = transport_packet(UDP, &[], &[]);
        follow(&mut empty, 1, 100);
        *packet = empty;
    });
}

#[test]
fn a_datagram_without_checksum_is_not_joined() {
    must_not_merge(UDP, |packet| packet[26..28].fill(0));
    // Even where the rest sums to all ones, so that none looks like a right one.
    let mut packets = run(UDP, 2, 100);
    for packet in &mut packets {
        let checksum = [packet[26], packet[27]];
        packet[126..128].fill(0);
        packet[28..30].fill(0);
        fix_checksums(packet);
        let missing = [packet[26], packet[27]];
        packet[28..30].copy_from_slice(&missing);
        fix_checksums(packet);
        assert_eq!(packet[26..28], [0xff, 0xff], "instead of {checksum:?}");
        packet[26..28].fill(0);
    }
    assert_eq!(Bench::of(&packets).counts(), [1, 1]);
}

#[test]
fn a_datagram_with_a_length_of_its_own_is_not_joined() {
    must_not_merge(UDP, |packet| {
        packet[25] -= 1;
        fix_checksums(packet);
    });
}

#[test]
fn options_of_the_ip_header_are_not_joined() {
    let with_options = |mut packet: Vec<u8>| {
        packet.splice(20..20, [1, 1, 1, 0]);
        packet[0] = 0x46;
        packet[3] += 4;
        packet
    };
    let packets: Vec<_> = run(TCP, 2, 100).into_iter().map(with_options).collect();
    assert_eq!(Bench::of(&packets).counts(), [1, 1]);
}

#[test]
fn a_wrong_checksum_is_never_joined_and_comes_out_as_it_was() {
    for protocol in [TCP, UDP] {
        for bad in 0..3 {
            for place in [20 + 4, 30, 36, 60, 139] {
                let mut packets = run(protocol, 3, 100);
                let place = place.min(packets[bad].len() - 1);
                packets[bad][place] ^= 0x20;
                let bench = Bench::of(&packets);
                let written: Vec<_> = bench.written();
                let single = |(headers, bytes): &(Option<Headers>, Vec<u8>)| {
                    headers.is_none() && *bytes == packets[bad]
                };
                assert!(written.iter().any(single), "{protocol}, packet {bad}, byte {place}");
                assert_eq!(bench.segmented(), packets, "{protocol}, packet {bad}, byte {place}");
            }
        }
    }
}

#[test]
fn no_checksum_is_verified_twice_whatever_is_wrong() {
    for protocol in [TCP, UDP] {
        for bad in [vec![], vec![0], vec![1], vec![2], vec![0, 1], vec![1, 2], vec![0, 1, 2, 3]] {
            let mut packets = run(protocol, 4, 100);
            for number in &bad {
                packets[*number][100] ^= 0x20;
            }
            VERIFIED.take();
            assert_eq!(Bench::of(&packets).segmented(), packets);
            let mut verified = VERIFIED.take();
            let count = verified.len();
            verified.sort();
            verified.dedup();
            assert_eq!(verified.len(), count, "{protocol}, packets {bad:?} are wrong");
            assert!(count > 0);
        }
    }
}

#[test]
fn fragments_are_not_joined_and_nothing_overtakes_them() {
    let mut packets = run(UDP, 3, 100);
    packets[1][6] = 0x20;
    let checksum = packets[1][26..28].to_vec();
    fix_checksums(&mut packets[1]);
    packets[1][26..28].copy_from_slice(&checksum);
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [1, 1, 1]);
    assert_eq!(bench.segmented(), packets);
}

#[test]
fn a_packet_that_may_not_be_joined_is_not_overtaken() {
    let mut packets = run(TCP, 4, 100);
    packets[1][33] |= 0x40;
    fix_checksums(&mut packets[1]);
    let bench = Bench::of(&packets);
    assert_eq!(bench.counts(), [1, 1, 2]);
    assert_eq!(bench.segmented(), packets);
}

#[test]
fn peers_are_not_joined() {
    let mut bench = Bench::new(BOTH);
    let packets = run(TCP, 2, 100);
    bench.push_from(&packets[0], UNDERLAY_B);
    bench.push_from(&packets[1], UNDERLAY_C);
    assert_eq!(bench.counts(), [1, 1]);
}

#[test]
fn a_cleared_batch_has_forgotten_its_flows() {
    let mut bench = Bench::new(BOTH);
    let packets = run(TCP, 2, 100);
    bench.push(&packets[0]);
    bench.coalescing.clear();
    bench.push(&packets[1]);
    assert_eq!(bench.counts(), [1]);
}
