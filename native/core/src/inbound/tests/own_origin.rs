//! Inbound by an encapsulation that says itself who sent a packet, and has messages of its own.

use super::*;
use crate::control::MAX_LEN;
use crate::encapsulation::toy::Toy;
use crate::encapsulation::{Around, Encapsulate};
use tunneld_wire::ip::Version;

/// Hands `message` over as it came from `outer`, by a tunnel whose peer is B.
fn take(bench: &mut Bench, outer: Ipv4Addr, message: &[u8], segment_len: Option<usize>) {
    let peer = bench.fib.by_endpoint(UNDERLAY_B.into()).unwrap();
    let mut memory = message.to_vec();
    let message = Message {
        outer: SocketAddr::from((outer, 40_000)).into(),
        place: 0..memory.len(),
        segment_len,
        now_ns: NOW_NS,
    };
    let view = (&bench.fib, bench.fib.settings().unwrap());
    bench.inbound.intake.take(&Toy::new(peer), &mut 0, view, &mut memory, message);
}

/// The datagram with `packet` in it.
fn around(packet: &[u8]) -> Vec<u8> {
    let peer = host_a(SourceCheck::Strict).1.by_endpoint(UNDERLAY_B.into()).unwrap();
    let mut slot = [&[0; 3][..], packet, &[0; 4]].concat();
    let len = Toy::new(peer).begin(0, Version::V4, 1).unwrap().finish(&mut slot);
    slot.truncate(len);
    slot
}

#[test]
fn a_packet_is_taken_wherever_it_comes_from_with_all_its_hops() {
    let mut bench = Bench::new(SourceCheck::Strict);
    take(&mut bench, STRANGER, &around(&packet(AT_B, CONTAINER, 1, 99)), None);
    let deliveries = bench.inbound.deliveries();
    let [delivery] = &deliveries[..] else { panic!("one delivery") };
    assert!(deliveries.packets(delivery).eq(std::iter::once(3..102)));
    assert_eq!(delivery.adjacency, bench.fib.by_endpoint(UNDERLAY_B.into()));
}

#[test]
fn a_peer_speaks_for_its_own_subnet_alone_whatever_is_loosened() {
    for check in [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off] {
        for (source, reason) in [
            (AT_C, DropReason::SourceOfOtherPeer),
            ([10, 5, 1, 7], DropReason::SourceIsLocal),
            ([9, 9, 9, 9], DropReason::SourceNotLeased),
            (UNDERLAY_B.octets(), DropReason::SourceNotLeased),
        ] {
            let mut bench = Bench::new(check);
            // Not even behind an honest one.
            take(&mut bench, UNDERLAY_B, &around(&packet(AT_B, CONTAINER, 9, 99)), None);
            take(&mut bench, UNDERLAY_B, &around(&packet(source, CONTAINER, 9, 99)), None);
            assert_eq!(bench.inbound.counters().drops(reason).read(), 1, "{source:?} {check:?}");
            assert_eq!(bench.inbound.deliveries().len(), 1);
        }
    }
}

#[test]
fn what_passed_by_its_origin_passes_by_no_address() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let honest = packet(AT_B, CONTAINER, 9, 100);
    take(&mut bench, UNDERLAY_C, &around(&honest), None);
    bench.handle(UNDERLAY_C, &honest);
    assert_eq!(bench.inbound.counters().drops(DropReason::SourceOfOtherPeer).read(), 1);
    assert_eq!(bench.inbound.deliveries().len(), 1);
}

#[test]
fn messages_of_the_encapsulation_come_out_apart_also_as_the_tail_of_a_train() {
    let mut bench = Bench::new(SourceCheck::Strict);
    let data = around(&packet(AT_B, CONTAINER, 9, 97));
    let train = [&data[..], &data, &[1, 7, 7]].concat();
    take(&mut bench, STRANGER, &train, Some(data.len()));
    let controls: Vec<_> = bench.inbound.controls().iter().collect();
    assert_eq!(controls, [((STRANGER, 40_000).into(), &[1u8, 7, 7][..])]);
    assert_eq!(bench.inbound.counters().packets.read(), 3);
    let counted = |bench: &Bench| {
        DropReason::ALL.iter().map(|one| bench.inbound.counters().drops(*one).read()).sum::<u64>()
    };
    assert_eq!(counted(&bench), 0);
    bench.inbound.clear();
    assert_eq!(bench.inbound.controls().iter().count(), 0);
}

#[test]
fn more_messages_than_there_is_room_for_are_counted() {
    let mut bench = Bench::new(SourceCheck::Strict);
    for _ in 0..70 {
        take(&mut bench, STRANGER, &[1; MAX_LEN], None);
    }
    take(&mut bench, STRANGER, &[1; MAX_LEN + 1], None);
    assert_eq!(bench.inbound.controls().iter().count(), 64);
    let counters = bench.inbound.counters();
    assert_eq!(counters.drops(DropReason::ControlOverflow).read(), 6);
    assert_eq!(counters.drops(DropReason::Oversized).read(), 1);
}
