mod over_ipv6;
mod own_origin;
mod vxlan;

use std::net::Ipv4Addr;

use super::*;
use crate::fib::SourceCheck;
use crate::testing::{
    NOW_NS, UNDERLAY_B, UNDERLAY_C, dual_stack, fix_checksums, fix_header_checksum, framed, host_a,
    over_ipv6, packet, transport_packet, vxlan_change,
};
use crate::transaction::{Change, Tables};

const AT_B: [u8; 4] = [10, 5, 2, 2];
const AT_C: [u8; 4] = [10, 5, 3, 2];
const CONTAINER: [u8; 4] = [10, 5, 1, 2];
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 9);

/// Host A's inbound half.
struct Bench {
    inbound: Inbound,
    fib: Fib,
    tables: Tables,
}

impl Bench {
    fn new(check: SourceCheck) -> Self {
        let (tables, fib) = host_a(check);
        Self { inbound: Inbound::new(0, Arc::default()), fib, tables }
    }

    /// Hands over a datagram; returns it as it stands afterwards.
    fn handle(&mut self, outer: Ipv4Addr, datagram: &[u8]) -> Vec<u8> {
        let mut datagram = datagram.to_vec();
        let outer = SocketAddr::from((outer, 40_000));
        let place = 0..datagram.len();
        self.inbound.handle(&self.fib, Via::Plain, outer, &mut datagram, place, None, NOW_NS);
        datagram
    }

    /// Checks that exactly one datagram was dropped, for `reason`.
    #[track_caller]
    fn dropped(&self, reason: DropReason) {
        for other in DropReason::ALL {
            let expected = u64::from(*other == reason);
            assert_eq!(self.inbound.counters().drops(*other).read(), expected, "{other:?}");
        }
        assert!(self.inbound.deliveries().is_empty());
    }
}

#[track_caller]
fn dropped(check: SourceCheck, outer: Ipv4Addr, datagram: &[u8], reason: DropReason) {
    let mut bench = Bench::new(check);
    bench.handle(outer, datagram);
    bench.dropped(reason);
}

#[track_caller]
fn delivered(check: SourceCheck, outer: Ipv4Addr, datagram: &[u8]) {
    let mut bench = Bench::new(check);
    bench.handle(outer, datagram);
    assert_eq!(bench.inbound.deliveries().len(), 1);
}

#[test]
fn an_honest_packet_is_delivered_one_hop_older_from_its_slot() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let left = bench.handle(UNDERLAY_B, &packet(AT_B, CONTAINER, 63, 100));
    assert_eq!(left, packet(AT_B, CONTAINER, 62, 100));
    let deliveries = bench.inbound.deliveries();
    let [delivery] = &deliveries[..] else { panic!("one delivery") };
    assert!(deliveries.packets(delivery).eq(std::iter::once(0..100)));
}

#[test]
fn counters_follow_what_the_device_took() {
    let mut bench = Bench::new(SourceCheck::Strict);
    bench.handle(UNDERLAY_B, &packet(AT_B, CONTAINER, 63, 100));
    bench.handle(UNDERLAY_B, &packet(AT_B, CONTAINER, 63, 100));
    let delivery = &bench.inbound.deliveries()[0];
    bench.inbound.delivered(&bench.fib, delivery, 1, 100, NOW_NS);
    bench.inbound.refused(DropReason::DeviceRefused, 1);
    let reading = bench.tables.adjacencies().next().unwrap().2.read();
    assert_eq!((reading.rx_packets, reading.rx_bytes, reading.tx_packets), (1, 100, 0));
    assert_eq!(reading.last_rx_ns, Some(NOW_NS));
}

#[test]
fn before_the_first_settings_everything_is_dropped() {
    let mut inbound = Inbound::new(0, Arc::default());
    let mut datagram = packet(AT_B, CONTAINER, 63, 100);
    let outer = SocketAddr::from((UNDERLAY_B, 8285));
    inbound.handle(&Fib::empty(), Via::Plain, outer, &mut datagram, 0..100, None, NOW_NS);
    assert_eq!(inbound.counters().drops(DropReason::NotConfigured).read(), 1);
}

#[test]
fn every_fault_of_the_inner_packet_has_its_own_reason() {
    let good = packet(AT_B, CONTAINER, 63, 100);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = good.clone();
        edit(&mut datagram);
        datagram
    };
    let cases: [(Vec<u8>, DropReason); 13] = [
        (vec![], DropReason::Empty),
        (vec![0xff; 65_507], DropReason::BadVersion),
        (vec![0x60; 40], DropReason::Ipv6Disabled),
        (vec![0x00; 40], DropReason::BadVersion),
        (vec![0x45], DropReason::Truncated),
        (good[..19].to_vec(), DropReason::Truncated),
        (
            edited(&|datagram| {
                datagram.truncate(20);
                datagram[0] = 0x46;
            }),
            DropReason::Truncated,
        ),
        (edited(&|datagram| datagram[0] = 0x44), DropReason::BadHeaderLength),
        (good[..99].to_vec(), DropReason::InnerLengthTooLong),
        (edited(&|datagram| datagram.push(0)), DropReason::InnerLengthTooShort),
        (edited(&|datagram| datagram[3] = 0), DropReason::InnerLengthTooShort),
        (edited(&|datagram| datagram[10] ^= 1), DropReason::BadHeaderChecksum),
        (edited(&|datagram| datagram[8] = 9), DropReason::BadHeaderChecksum),
    ];
    for (datagram, reason) in cases {
        dropped(SourceCheck::Strict, UNDERLAY_B, &datagram, reason);
    }
}

#[test]
fn a_datagram_the_kernel_cut_is_oversized() {
    let mut bench = Bench::new(SourceCheck::Strict);
    bench.inbound.truncated_by_kernel();
    bench.dropped(DropReason::Oversized);
}

#[test]
fn a_packet_beyond_the_devices_mtu_is_left_to_the_kernel() {
    for len in [1_472, 1_473, 65_507] {
        delivered(SourceCheck::Strict, UNDERLAY_B, &packet(AT_B, CONTAINER, 63, len));
    }
}

#[test]
fn the_strict_check_tells_its_causes_apart() {
    let check = SourceCheck::Strict;
    let from = |source| packet(source, CONTAINER, 63, 100);
    dropped(check, STRANGER, &from(AT_B), DropReason::UnknownPeer);
    dropped(check, STRANGER, &from([9, 9, 9, 9]), DropReason::UnknownPeer);
    dropped(check, UNDERLAY_B, &from([9, 9, 9, 9]), DropReason::SourceNotLeased);
    dropped(check, UNDERLAY_B, &from([10, 5, 1, 7]), DropReason::SourceIsLocal);
    dropped(check, UNDERLAY_B, &from(AT_C), DropReason::SourceOfOtherPeer);
    delivered(check, UNDERLAY_B, &from(AT_B));
    delivered(check, UNDERLAY_C, &from(AT_C));
}

#[test]
fn a_peers_own_address_is_its_own_and_nobody_elses() {
    let check = SourceCheck::Strict;
    let from = |source: Ipv4Addr| packet(source.octets(), CONTAINER, 63, 100);
    delivered(check, UNDERLAY_B, &from(UNDERLAY_B));
    delivered(check, UNDERLAY_C, &from(UNDERLAY_C));
    dropped(check, UNDERLAY_B, &from(UNDERLAY_C), DropReason::SourceNotLeased);
    dropped(check, STRANGER, &from(STRANGER), DropReason::UnknownPeer);
    let elsewhere = packet(UNDERLAY_B.octets(), AT_C, 63, 100);
    dropped(check, UNDERLAY_B, &elsewhere, DropReason::WrongDestination);
    // Where the underlay's addresses lie in the network, the lease says whose they are.
    let mut change = crate::testing::change(check);
    let c = change.put_entries[2].1.clone();
    change.put_entries.push(("192.168.0.0/24".parse().unwrap(), c));
    let mut bench = Bench { fib: Tables::new(1).commit(change).unwrap(), ..Bench::new(check) };
    bench.handle(UNDERLAY_B, &from(UNDERLAY_B));
    bench.dropped(DropReason::SourceOfOtherPeer);
}

#[test]
fn the_loose_check_wants_a_peer_and_a_source_that_is_not_ours() {
    let check = SourceCheck::Loose;
    let from = |source| packet(source, CONTAINER, 63, 100);
    dropped(check, STRANGER, &from(AT_B), DropReason::UnknownPeer);
    dropped(check, UNDERLAY_B, &from([10, 5, 1, 7]), DropReason::SourceIsLocal);
    delivered(check, UNDERLAY_B, &from([9, 9, 9, 9]));
    delivered(check, UNDERLAY_B, &from(AT_C));
}

#[test]
fn without_a_check_every_source_is_taken() {
    for source in [AT_B, AT_C, [9, 9, 9, 9], [10, 5, 1, 7]] {
        delivered(SourceCheck::Off, STRANGER, &packet(source, CONTAINER, 63, 100));
    }
}

#[test]
fn under_a_loose_check_the_sender_is_counted_and_not_the_source_it_claims() {
    let mut bench = Bench::new(SourceCheck::Loose);
    bench.handle(UNDERLAY_B, &packet(AT_C, CONTAINER, 63, 100));
    let delivery = &bench.inbound.deliveries()[0];
    bench.inbound.delivered(&bench.fib, delivery, 1, 100, NOW_NS);
    let counted: Vec<_> = bench
        .tables
        .adjacencies()
        .map(|(name, _, counters)| (name, counters.read().rx_packets))
        .collect();
    assert_eq!(counted, [("b", 1), ("c", 0)]);
}

#[test]
fn a_destination_that_is_not_ours_is_refused_whatever_the_source_check() {
    for check in [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off] {
        for destination in [AT_C, [9, 9, 9, 9], [224, 0, 0, 1]] {
            let datagram = packet(AT_B, destination, 63, 100);
            dropped(check, UNDERLAY_B, &datagram, DropReason::WrongDestination);
        }
    }
}

#[test]
fn a_packet_that_passed_speaks_for_none_with_another_address() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let good = packet(AT_B, CONTAINER, 63, 100);
    for (outer, source, destination, reason) in [
        (UNDERLAY_C, AT_B, CONTAINER, DropReason::SourceOfOtherPeer),
        (STRANGER, AT_B, CONTAINER, DropReason::UnknownPeer),
        (UNDERLAY_B, AT_C, CONTAINER, DropReason::SourceOfOtherPeer),
        (UNDERLAY_B, AT_B, AT_C, DropReason::WrongDestination),
    ] {
        let before = bench.inbound.counters().drops(reason).read();
        bench.handle(UNDERLAY_B, &good);
        bench.handle(outer, &packet(source, destination, 63, 100));
        assert_eq!(bench.inbound.counters().drops(reason).read(), before + 1, "{outer}");
    }
    assert_eq!(bench.inbound.deliveries().len(), 4);
}

#[test]
fn a_packet_that_passed_speaks_for_none_of_the_next_batch() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let good = packet(AT_B, CONTAINER, 63, 100);
    bench.handle(UNDERLAY_B, &good);
    bench.inbound.clear();
    let change = Change { settings: bench.fib.settings().copied(), ..Change::default() };
    bench.fib = Tables::new(1).commit(change).unwrap();
    bench.handle(UNDERLAY_B, &good);
    bench.dropped(DropReason::UnknownPeer);
}

#[test]
fn the_last_hop_is_answered_with_time_exceeded() {
    for hop_limit in [0, 1] {
        let mut bench = Bench::new(SourceCheck::Strict);
        let offender = packet(AT_B, CONTAINER, hop_limit, 48);
        bench.handle(UNDERLAY_B, &offender);
        bench.dropped(DropReason::HopLimitExceeded);
        let replies: Vec<_> = bench.inbound.replies().iter().collect();
        let [(destination, reply)] = replies[..] else { panic!("one reply") };
        assert_eq!(destination, Ipv4Addr::from(AT_B));
        // The kernel puts the source in.
        assert_eq!(ipv4::Header::parse(reply).unwrap().source, Ipv4Addr::UNSPECIFIED);
        assert_eq!(reply[20..22], [11, 0]);
        assert_eq!(reply[28..], offender);
    }
}

#[test]
fn options_in_the_header_are_covered_by_its_checksum() {
    let mut datagram = packet(AT_B, CONTAINER, 63, 100);
    datagram[0] = 0x46;
    fix_header_checksum(&mut datagram);
    // The sum over 20 bytes is right; the one over the 24 of this header is not.
    dropped(SourceCheck::Strict, UNDERLAY_B, &datagram, DropReason::BadHeaderChecksum);
}

#[test]
fn random_datagrams_are_dropped_and_nothing_else() {
    let mut state = 11u64;
    let mut bench = Bench::new(SourceCheck::Strict);
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for _ in 0..50_000 {
        let len = usize::from(byte()) / 3;
        let mut datagram: Vec<u8> = (0..len).map(|_| byte()).collect();
        if let Some(first) = datagram.first_mut() {
            *first = 0x45;
        }
        bench.handle(UNDERLAY_B, &datagram);
    }
    assert!(bench.inbound.deliveries().is_empty());
    let dropped: u64 =
        DropReason::ALL.iter().map(|reason| bench.inbound.counters().drops(*reason).read()).sum();
    assert_eq!(dropped, 50_000);
}

#[test]
fn a_train_is_split_and_each_datagram_judged_by_itself() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let good = packet(AT_B, CONTAINER, 63, 100);
    let forged = packet(AT_C, CONTAINER, 63, 100);
    let last = packet(AT_B, CONTAINER, 63, 60);
    let mut memory = [&[0xaa; 50][..], &good, &forged, &good, &last].concat();
    let place = 50..memory.len();
    let outer = SocketAddr::from((UNDERLAY_B, 8285));
    bench.inbound.handle(&bench.fib, Via::Plain, outer, &mut memory, place, Some(100), NOW_NS);
    let deliveries = bench.inbound.deliveries();
    let places = deliveries.iter().flat_map(|delivery| deliveries.packets(delivery));
    assert_eq!(places.collect::<Vec<_>>(), [50..150, 250..350, 350..410]);
    let counters = bench.inbound.counters();
    assert_eq!(counters.drops(DropReason::SourceOfOtherPeer).read(), 1);
    assert_eq!((counters.packets.read(), counters.bytes.read()), (4, 360));
}

#[test]
fn datagram_of_64_kib_without_cmsg_is_one_datagram() {
    let whole = packet(AT_B, CONTAINER, 63, 64_000);
    assert_eq!(Raw.split_len(&whole, None), 64_000);
    delivered(SourceCheck::Strict, UNDERLAY_B, &whole);
}

#[test]
fn a_train_is_split_whatever_its_first_datagram_says_of_its_length() {
    let good = packet(AT_B, CONTAINER, 63, 100);
    // One more than there is; one less; all there is; the most; less than a header; nothing.
    for says in [101u16, 99, 400, 0xffff, 19, 0] {
        for place in 0..4 {
            let mut bench = Bench::new(SourceCheck::Strict);
            let mut memory: Vec<u8> =
                std::iter::repeat_n(&good[..], 4).flatten().copied().collect();
            memory[100 * place + 2..][..2].copy_from_slice(&says.to_be_bytes());
            let outer = SocketAddr::from((UNDERLAY_B, 8285));
            bench.inbound.handle(
                &bench.fib,
                Via::Plain,
                outer,
                &mut memory,
                0..400,
                Some(100),
                NOW_NS,
            );
            let batch = bench.inbound.deliveries();
            let places = batch.iter().flat_map(|one| batch.packets(one));
            let others = (0..4).filter(|other| *other != place).map(|n| n * 100..n * 100 + 100);
            assert_eq!(places.collect::<Vec<_>>(), others.collect::<Vec<_>>(), "{says} at {place}");
            let counters = bench.inbound.counters();
            let [long, short, wrong] = [
                DropReason::InnerLengthTooLong,
                DropReason::InnerLengthTooShort,
                DropReason::BadHeaderChecksum,
            ]
            .map(|reason| counters.drops(reason).read());
            assert_eq!((long + short, wrong), (1, 0), "{says} at {place}");
            assert_eq!(counters.packets.read(), 4);
        }
    }
}

#[test]
fn an_odd_segment_length_never_stalls() {
    assert_eq!(Raw.split_len(&[], None), 1);
    assert_eq!(Raw.split_len(&[], Some(0)), 1);
    assert_eq!(Raw.split_len(&[0x45; 3], Some(0)), 3);
    assert_eq!(Raw.split_len(&[0x45; 3], Some(2)), 2);
    assert_eq!(Raw.split_len(&[0xff; 30], Some(100)), 100);
}

/// Makes an IPv4 packet one of some version.
type Version = fn(Vec<u8>) -> Vec<u8>;

/// A packet of B's container with a mark, and with every checksum right.
fn marked(ecn: u8) -> Vec<u8> {
    let mut packet = transport_packet(ip::PROTOCOL_TCP, &[], &[7; 100]);
    packet[1] = 0x2e << 2 | ecn;
    fix_header_checksum(&mut packet);
    packet
}

#[test]
fn congestion_marks_of_the_underlay_are_passed_on_in_both_families_and_encapsulations() {
    for (change, is_framed) in
        [(dual_stack(SourceCheck::Strict), false), (vxlan_change(SourceCheck::Strict), true)]
    {
        let fib = Tables::new(1).commit(change).unwrap();
        let packets: &[Version] = if is_framed {
            &[|packet| packet]
        } else {
            &[|packet| packet, |packet| over_ipv6(&packet)]
        };
        // RFC 6040 figure 4: inner, outer, what goes on.
        for (inner, outer, goes_on) in
            [(2, 3, 3), (1, 3, 3), (3, 3, 3), (2, 1, 1), (1, 2, 1), (2, 2, 2), (2, 0, 2), (0, 1, 0)]
        {
            for version in packets {
                let mut bench = Bench {
                    inbound: Inbound::new(0, Arc::default()),
                    ..Bench::new(SourceCheck::Strict)
                };
                let packet = version(marked(inner));
                let mut memory = if is_framed { framed(&packet) } else { packet };
                let (start, place) = (memory.len() - version(marked(inner)).len(), 0..memory.len());
                let outer = Outer { source: (UNDERLAY_B, 8285).into(), ecn: Ecn::of(outer) };
                bench.inbound.handle(&fib, Via::Plain, outer, &mut memory, place, None, NOW_NS);
                let mut expected = version(marked(goes_on));
                if !is_framed {
                    match expected[0] >> 4 {
                        4 => ipv4::take_hop(&mut expected),
                        _ => ipv6::take_hop(&mut expected),
                    };
                }
                assert_eq!(memory[start..], expected, "{inner} in {outer:?}");
                assert_eq!(bench.inbound.deliveries().len(), 1);
            }
        }
    }
}

#[test]
fn a_mark_that_its_sender_would_not_understand_costs_the_packet() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let mut memory = marked(0);
    let (place, outer) =
        (0..memory.len(), Outer { source: (UNDERLAY_B, 8285).into(), ecn: Ecn::Ce });
    bench.inbound.handle(&bench.fib, Via::Plain, outer, &mut memory, place, None, NOW_NS);
    bench.dropped(DropReason::UnexpectedCongestionMark);
}

#[test]
fn every_packet_of_a_marked_train_is_marked_and_none_is_joined_with_others() {
    let mut bench = Bench::new(SourceCheck::Strict);
    bench.inbound.set_coalescing(Kinds { tcp: true, udp: true });
    let segment = |number: u32| {
        let mut packet = marked(2);
        packet[24..28].copy_from_slice(&(number * 100).to_be_bytes());
        fix_checksums(&mut packet);
        packet
    };
    let mut memory: Vec<u8> = (0..6).flat_map(segment).collect();
    for (part, ecn) in [(0..280, Ecn::Ect0), (280..560, Ecn::Ce), (560..840, Ecn::Ect0)] {
        let outer = Outer { source: (UNDERLAY_B, 8285).into(), ecn };
        bench.inbound.handle(&bench.fib, Via::Plain, outer, &mut memory, part, Some(140), NOW_NS);
    }
    let deliveries = bench.inbound.deliveries();
    assert!(deliveries.iter().map(|delivery| delivery.count).eq([2, 2, 2]));
    let marks: Vec<_> = memory.chunks(140).map(|packet| packet[1] & 3).collect();
    assert_eq!(marks, [2, 2, 3, 3, 2, 2]);
    assert!(memory.chunks(140).all(|packet| ipv4::verify_checksum(&packet[..20])));
}
