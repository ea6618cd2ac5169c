//! Inbound by an encapsulation that says itself who sent a packet, and has messages of its own.

use std::num::NonZeroU64;

use super::*;
use crate::control::MAX_LEN;
use crate::encapsulation::toy::Toy;
use crate::encapsulation::{Around, Encapsulate};
use crate::sad::Sad;
use crate::testing::{KEY_B, protected_host_a};
use tunneld_wire::ip::Version;

/// Host A, which knows B by its key.
fn protected(check: SourceCheck) -> (Bench, Toy) {
    let sad = Arc::new(Sad::new(1));
    let (tables, fib) = protected_host_a(check, &sad);
    let bench = Bench { inbound: Inbound::new(0, Arc::default()), fib, tables };
    (bench, Toy::new(sad.peer(KEY_B).number()))
}

/// Hands `message` over as it came from `outer`, by a tunnel whose peer is B.
fn take(
    (bench, toy): &mut (Bench, Toy),
    outer: Ipv4Addr,
    message: &[u8],
    segment_len: Option<usize>,
) {
    let mut memory = message.to_vec();
    let message = Message {
        outer: SocketAddr::from((outer, 40_000)).into(),
        place: 0..memory.len(),
        segment_len,
        now_ns: NOW_NS,
    };
    let view = (&bench.fib, bench.fib.settings().unwrap());
    bench.inbound.intake.take(toy, &mut 0, view, &mut memory, message);
}

/// The datagram with `packet` in it.
fn around(packet: &[u8]) -> Vec<u8> {
    let mut slot = [&[0; 3][..], packet, &[0; 4]].concat();
    let len = Toy::new(NonZeroU64::MIN)
        .begin(0, Version::V4, 1, NOW_NS)
        .unwrap()
        .finish(&mut slot)
        .unwrap();
    slot.truncate(len);
    slot
}

#[test]
fn a_packet_is_taken_wherever_it_comes_from_with_all_its_hops() {
    let mut ends = protected(SourceCheck::Strict);
    take(&mut ends, STRANGER, &around(&packet(AT_B, CONTAINER, 1, 99)), None);
    let bench = ends.0;
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
            let mut ends = protected(check);
            // Not even behind an honest one.
            take(&mut ends, UNDERLAY_B, &around(&packet(AT_B, CONTAINER, 9, 99)), None);
            take(&mut ends, UNDERLAY_B, &around(&packet(source, CONTAINER, 9, 99)), None);
            let bench = ends.0;
            assert_eq!(bench.inbound.counters().drops(reason).read(), 1, "{source:?} {check:?}");
            assert_eq!(bench.inbound.deliveries().len(), 1);
        }
    }
}

#[test]
fn what_passed_by_its_origin_passes_by_no_address() {
    let mut ends = protected(SourceCheck::Strict);
    let honest = packet(AT_B, CONTAINER, 9, 100);
    take(&mut ends, UNDERLAY_C, &around(&honest), None);
    let mut bench = ends.0;
    bench.handle(UNDERLAY_C, &honest);
    assert_eq!(bench.inbound.counters().drops(DropReason::PlainRefused).read(), 1);
    assert_eq!(bench.inbound.deliveries().len(), 1);
}

#[test]
fn messages_of_the_encapsulation_come_out_apart_also_as_the_tail_of_a_train() {
    let mut ends = protected(SourceCheck::Strict);
    let data = around(&packet(AT_B, CONTAINER, 9, 97));
    let train = [&data[..], &data, &[1, 7, 7]].concat();
    take(&mut ends, STRANGER, &train, Some(data.len()));
    let mut bench = ends.0;
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
    let mut ends = protected(SourceCheck::Strict);
    for _ in 0..70 {
        take(&mut ends, STRANGER, &[1; MAX_LEN], None);
    }
    take(&mut ends, STRANGER, &[1; MAX_LEN + 1], None);
    let bench = ends.0;
    assert_eq!(bench.inbound.controls().iter().count(), 64);
    let counters = bench.inbound.counters();
    assert_eq!(counters.drops(DropReason::HandshakeOverflow).read(), 6);
    assert_eq!(counters.drops(DropReason::HandshakeLength).read(), 1);
}
