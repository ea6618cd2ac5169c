//! Inbound over IPv6.

use super::*;
use crate::testing::{dual_stack, over_ipv6};

fn bench(check: SourceCheck) -> Bench {
    let mut tables = Tables::new(1);
    let fib = tables.commit(dual_stack(check)).unwrap();
    Bench { inbound: Inbound::new(0, Arc::default()), fib, tables }
}

/// A UDP packet over IPv6 of `len` bytes, from and to what stands for those addresses.
fn packet_v6(source: [u8; 4], destination: [u8; 4], hop_limit: u8, len: usize) -> Vec<u8> {
    over_ipv6(&packet(source, destination, hop_limit, len - 20))
}

#[track_caller]
fn dropped_v6(check: SourceCheck, outer: Ipv4Addr, datagram: &[u8], reason: DropReason) {
    let mut bench = bench(check);
    bench.handle(outer, datagram);
    bench.dropped(reason);
}

#[test]
fn an_honest_packet_arrives_one_hop_older() {
    for check in [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off] {
        let mut bench = bench(check);
        let after = bench.handle(UNDERLAY_B, &packet_v6(AT_B, CONTAINER, 63, 100));
        assert_eq!(after, packet_v6(AT_B, CONTAINER, 62, 100));
        assert_eq!(bench.inbound.deliveries().len(), 1);
    }
}

#[test]
fn sources_are_checked_as_over_ipv4() {
    let from = |source| packet_v6(source, CONTAINER, 63, 100);
    for (outer, source, reason) in [
        (STRANGER, AT_B, DropReason::UnknownPeer),
        (UNDERLAY_B, [10, 5, 9, 2], DropReason::SourceNotLeased),
        (UNDERLAY_B, [10, 5, 1, 9], DropReason::SourceIsLocal),
        (UNDERLAY_B, AT_C, DropReason::SourceOfOtherPeer),
    ] {
        dropped_v6(SourceCheck::Strict, outer, &from(source), reason);
    }
}

#[test]
fn only_what_is_ours_is_taken() {
    for destination in [AT_B, AT_C, [10, 5, 9, 2]] {
        let packet = packet_v6(AT_B, destination, 63, 100);
        dropped_v6(SourceCheck::Strict, UNDERLAY_B, &packet, DropReason::WrongDestination);
    }
}

#[test]
fn a_hop_limit_that_runs_out_is_told_to_the_source() {
    let mut bench = bench(SourceCheck::Strict);
    let packet = packet_v6(AT_B, CONTAINER, 1, 100);
    assert_eq!(bench.handle(UNDERLAY_B, &packet), packet);
    bench.dropped(DropReason::HopLimitExceeded);
    let replies: Vec<_> = bench.inbound.replies().iter().collect();
    let [(destination, reply)] = replies[..] else { panic!("one reply") };
    assert_eq!(destination, "fd00:5:2::2".parse::<IpAddr>().unwrap());
    assert_eq!(reply[..2], [3, 0]);
    assert_eq!(reply[8..], packet);
}

#[test]
fn every_fault_of_the_header_has_its_reason() {
    let good = packet_v6(AT_B, CONTAINER, 63, 100);
    let edited = |place: usize, value: u8| {
        let mut packet = good.clone();
        packet[place] = value;
        packet
    };
    for (datagram, reason) in [
        (good[..39].to_vec(), DropReason::Truncated),
        (edited(5, 61), DropReason::InnerLengthTooLong),
        (edited(5, 59), DropReason::InnerLengthTooShort),
    ] {
        dropped_v6(SourceCheck::Off, UNDERLAY_B, &datagram, reason);
    }
    dropped(SourceCheck::Off, UNDERLAY_B, &good, DropReason::Ipv6Disabled);
}

#[test]
fn a_message_is_split_by_the_payload_length() {
    let small = packet_v6(AT_B, CONTAINER, 63, 1_000);
    let train = [&small[..], &small].concat();
    assert_eq!(Raw.split_len(&train, Some(1_000)), 1_000);
    assert_eq!(Raw.split_len(&packet_v6(AT_B, CONTAINER, 63, 1_001), Some(1_000)), 1_000);
}
