//! Outbound by an encapsulation that numbers its datagrams, changes what is in them and pads it.

use std::num::NonZeroU64;

use super::*;
use crate::encapsulation::toy::{NUMBERS, Toy};

/// Hands a packet over to a tunnel that leads to B.
fn emit(bench: &mut Bench, toy: &Toy, vnet: VnetHeader, packet: &[u8]) -> Result<(), DropReason> {
    let view = View { fib: &bench.fib, settings: bench.fib.settings().unwrap(), now_ns: NOW_NS };
    let header = ipv4::Header::parse(packet).unwrap();
    let id = bench.fib.by_endpoint(UNDERLAY_B.into()).unwrap();
    let parsed = Parsed { header, bytes: packet, vnet };
    bench.outbound.emit(toy, view, (id, bench.fib.adjacency(id)), &parsed)
}

/// The inner packet of a datagram.
fn inner(datagram: &[u8]) -> Vec<u8> {
    let plain: Vec<_> = datagram[3..].iter().map(|byte| byte ^ 0x5a).collect();
    let padding = usize::from(plain[plain.len() - 1]);
    plain[..plain.len() - padding - 1].to_vec()
}

#[test]
fn datagrams_of_equal_length_share_a_train_though_their_packets_differ() {
    let mut bench = Bench::new();
    let toy = Toy::new(NonZeroU64::MIN);
    let lens = [100, 102, 101, 103, 98];
    for len in lens {
        emit(&mut bench, &toy, VnetHeader::default(), &packet(CONTAINER, AT_B, 9, len)).unwrap();
    }
    let [train] = bench.outbound.batch().queues()[0].trains() else { panic!("one train") };
    assert_eq!((train.count, train.segment_len), (5, 3 + 104));
    assert_eq!(bench.outbound.batch().inner_len(train, &(1..4)), 102 + 101 + 103);
    for ((datagram, len), number) in bench.sent().iter().zip(lens).zip(0..) {
        assert_eq!(datagram[..3], [0, 0, number]);
        assert_eq!(inner(datagram), packet(CONTAINER, AT_B, 9, len));
    }
}

/// The numbers of what leaves with a super-packet of 6,000 segments, which needs several batches.
fn numbers(bench: &mut Bench, toy: &Toy) -> Vec<u16> {
    let whole = packet(CONTAINER, AT_B, 64, 28 + 60_000);
    emit(bench, toy, udp_super_packet(10), &whole).unwrap();
    let mut sent = bench.sent();
    while let Some(rest) = bench.outbound.unfinished.take() {
        bench.outbound.clear();
        let recorded = SocketAddr::from((UNDERLAY_B, 8285));
        bench.outbound.go_on(toy, recorded, rest, (&whole, NOW_NS));
        sent.extend(bench.sent());
    }
    let payload = sent.iter().flat_map(|datagram| inner(datagram)[28..].to_vec());
    assert!(payload.eq(whole[28..28 + 10 * sent.len()].iter().copied()));
    sent.iter().map(|datagram| u16::from_be_bytes([datagram[1], datagram[2]])).collect()
}

#[test]
fn every_segment_has_a_number_of_its_own_also_when_the_rest_goes_later() {
    let mut bench = Bench::new();
    let toy = Toy::new(NonZeroU64::MIN);
    let numbers = numbers(&mut bench, &toy);
    assert_eq!(numbers.len(), 6_000);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn a_rest_that_cannot_go_on_is_counted() {
    let mut bench = Bench::new();
    let toy = Toy::new(NonZeroU64::MIN);
    toy.next.set(NUMBERS - 6_000);
    let went = numbers(&mut bench, &toy).len();
    assert!((1..6_000).contains(&went));
    let refused = bench.outbound.counters().drops(DropReason::WayFull).read();
    assert_eq!(refused as usize, 6_000 - went);
}

#[test]
fn nobody_is_told_about_a_packet_that_can_no_longer_be_read() {
    let mut bench = Bench::new();
    let toy = Toy::new(NonZeroU64::MIN);
    emit(&mut bench, &toy, VnetHeader::default(), &packet(CONTAINER, AT_B, 9, 1_400)).unwrap();
    assert_eq!(Toy::largest_inner(107), 103);
    assert!(Toy::inner(&bench.sent()[0]).is_none());
}
