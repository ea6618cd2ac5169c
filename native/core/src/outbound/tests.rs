mod numbered;
mod over_ipv6;
mod vxlan;

use tunneld_wire::checksum::Sum;
use tunneld_wire::ipv4;

use super::*;
use crate::testing::{NOW_NS, UNDERLAY_B, fix_header_checksum, host_a, packet};
use crate::{batch, fib::SourceCheck, transaction::Tables};

const CONTAINER: [u8; 4] = [10, 5, 1, 2];
const AT_B: [u8; 4] = [10, 5, 2, 2];
const AT_C: [u8; 4] = [10, 5, 3, 2];
const NOWHERE: [u8; 4] = [10, 5, 250, 7];

/// Host A's outbound half.
struct Bench {
    outbound: Outbound,
    fib: Fib,
    tables: Tables,
}

impl Bench {
    fn new() -> Self {
        let (tables, fib) = host_a(SourceCheck::Strict);
        Self { outbound: Outbound::new(0, Arc::default()), fib, tables }
    }

    fn handle(&mut self, packet: &[u8]) {
        self.handle_with(VnetHeader::default(), packet);
    }

    fn handle_with(&mut self, vnet: VnetHeader, packet: &[u8]) {
        self.outbound.handle(&self.fib, vnet, packet, NOW_NS);
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        self.outbound.batch().datagrams().map(|datagram| datagram.payload.to_vec()).collect()
    }

    fn replies(&self) -> Vec<Vec<u8>> {
        self.outbound.replies().iter().map(|(_, packet)| packet.to_vec()).collect()
    }

    /// Checks that exactly one packet was dropped, for `reason`, and nothing was sent.
    #[track_caller]
    fn dropped(&self, reason: DropReason) {
        for other in DropReason::ALL {
            let expected = u64::from(*other == reason);
            assert_eq!(self.outbound.counters().drops(*other).read(), expected, "{other:?}");
        }
        assert!(self.sent().is_empty());
    }
}

#[track_caller]
fn dropped_without_a_word(packet: &[u8], reason: DropReason) {
    let mut bench = Bench::new();
    bench.handle(packet);
    bench.dropped(reason);
    assert!(bench.replies().is_empty());
}

#[test]
fn a_packet_for_a_peer_goes_to_its_endpoint_one_hop_older() {
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_B, 64, 100));
    assert_eq!(bench.sent(), [packet(CONTAINER, AT_B, 63, 100)]);
    let endpoint = bench.outbound.batch().queues()[0].trains()[0].endpoint;
    assert_eq!(endpoint, (UNDERLAY_B, 8285).into());
}

#[test]
fn datagrams_of_a_batch_lie_side_by_side_in_order() {
    let mut bench = Bench::new();
    for len in [100, 1_400, 20] {
        bench.handle(&packet(CONTAINER, AT_C, 9, len));
    }
    let expected: Vec<_> =
        [100, 1_400, 20].iter().map(|len| packet(CONTAINER, AT_C, 8, *len)).collect();
    assert_eq!(bench.sent(), expected);
    let datagrams = bench.outbound.batch().datagrams();
    let places = datagrams.map(|datagram| datagram.payload.as_ptr() as usize);
    let places: Vec<_> = places.collect();
    assert_eq!((places[1] - places[0], places[2] - places[1]), (100, 1_400));
}

#[test]
fn counters_follow_what_was_sent_and_not_what_was_planned() {
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_B, 64, 100));
    bench.handle(&packet(CONTAINER, AT_B, 64, 50));
    let [train] = bench.outbound.batch().queues()[0].trains() else { panic!("one train") };
    bench.outbound.sent(&bench.fib, train, &(0..1), NOW_NS);
    bench.outbound.refused(DropReason::UnderlayRefused, 1);
    let reading = bench.tables.adjacencies().next().unwrap().2.read();
    assert_eq!((reading.tx_packets, reading.tx_bytes, reading.rx_packets), (1, 100, 0));
    assert_eq!(bench.outbound.counters().packets.read(), 2);
    assert_eq!(bench.outbound.counters().bytes.read(), 150);
}

#[test]
fn before_the_first_settings_everything_is_dropped() {
    let mut outbound = Outbound::new(0, Arc::default());
    let packet = packet(CONTAINER, AT_B, 64, 100);
    outbound.handle(&Fib::empty(), VnetHeader::default(), &packet, NOW_NS);
    assert_eq!(outbound.counters().drops(DropReason::NotConfigured).read(), 1);
}

#[test]
fn what_is_no_ipv4_packet_is_dropped() {
    let good = packet(CONTAINER, AT_B, 64, 100);
    dropped_without_a_word(&[0x60; 40], DropReason::Ipv6Disabled);
    dropped_without_a_word(&[], DropReason::Malformed);
    dropped_without_a_word(&[0x55; 40], DropReason::Malformed);
    dropped_without_a_word(&good[..19], DropReason::Malformed);
    dropped_without_a_word(&good[..99], DropReason::Malformed);
    dropped_without_a_word(&[&[0x44], &good[1..]].concat(), DropReason::Malformed);
}

#[test]
fn a_packet_for_the_own_subnet_does_not_loop() {
    dropped_without_a_word(&packet(CONTAINER, [10, 5, 1, 9], 64, 100), DropReason::OwnSubnet);
}

#[test]
fn an_unleased_destination_is_answered_with_net_unreachable() {
    let mut bench = Bench::new();
    let offender = packet(CONTAINER, NOWHERE, 63, 48);
    bench.handle(&offender);
    bench.dropped(DropReason::NoRoute);
    let [reply] = &bench.replies()[..] else { panic!("one reply") };
    let header = ipv4::Header::parse(reply).unwrap();
    // The kernel puts the source in.
    let source = std::net::Ipv4Addr::UNSPECIFIED;
    assert_eq!((header.source, header.destination), (source, CONTAINER.into()));
    assert_eq!(reply[20..22], [3, 0]);
    assert_eq!(reply[28..], offender);
}

#[test]
fn multicast_and_broadcast_have_no_route_and_no_answer() {
    for destination in [[224, 0, 0, 251], [255, 255, 255, 255]] {
        dropped_without_a_word(&packet(CONTAINER, destination, 1, 48), DropReason::NoRoute);
    }
}

#[test]
fn the_last_hop_is_answered_with_time_exceeded() {
    for hop_limit in [0, 1] {
        let mut bench = Bench::new();
        let offender = packet(CONTAINER, AT_B, hop_limit, 48);
        bench.handle(&offender);
        bench.dropped(DropReason::HopLimitExceeded);
        let [reply] = &bench.replies()[..] else { panic!("one reply") };
        assert_eq!(reply[20..22], [11, 0]);
        assert_eq!(reply[28..], offender, "as it was received");
    }
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_B, 2, 48));
    assert_eq!(bench.sent(), [packet(CONTAINER, AT_B, 1, 48)]);
}

#[test]
fn a_packet_of_the_peers_mtu_passes_and_one_byte_more_is_answered_with_that_mtu() {
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_C, 64, 1_400));
    assert_eq!(bench.sent().len(), 1);
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_C, 64, 1_401));
    bench.dropped(DropReason::TooBig);
    let [reply] = &bench.replies()[..] else { panic!("one reply") };
    assert_eq!(reply[20..22], [3, 4]);
    assert_eq!(u16::from_be_bytes([reply[26], reply[27]]), 1_400);
    assert_eq!(reply.len(), 576);
}

#[test]
fn a_large_packet_that_may_be_fragmented_leaves_in_fragments() {
    let mut bench = Bench::new();
    for len in [1_400, 1_401] {
        let mut large = packet(CONTAINER, AT_C, 64, len);
        large[6] = 0;
        fix_header_checksum(&mut large);
        bench.handle(&large);
    }
    let trains = bench.outbound.batch().queues()[0].trains();
    let found: Vec<_> = trains.iter().map(|train| (train.count, train.passage.df)).collect();
    assert_eq!(found, [(1, OuterDf::Kernel), (1, OuterDf::Clear)]);
    assert!(bench.replies().is_empty());
}

#[test]
fn what_the_underlay_refuses_for_its_size_is_answered_or_may_be_fragmented() {
    let mut bench = Bench::new();
    bench.handle(&packet(CONTAINER, AT_B, 64, 1_472));
    let mut fragmentable = packet(CONTAINER, AT_B, 64, 1_472);
    fragmentable[6] = 0;
    fix_header_checksum(&mut fragmentable);
    bench.handle(&fragmentable);
    assert!(!bench.outbound.may_fragment(&bench.fib, 0, (0, 0)));
    assert!(bench.outbound.may_fragment(&bench.fib, 0, (0, 1)));
    for (path_mtu_bytes, told) in [(1_400, 1_372), (552, 524), (60, 68), (200_000, 65_535)] {
        let refused = Refused { queue: 0, place: (0, 0), path_mtu_bytes };
        bench.outbound.answer_refused(&bench.fib, &refused, NOW_NS);
        let reply = bench.replies().pop().unwrap();
        assert_eq!(reply[20..22], [3, 4]);
        assert_eq!(u16::from_be_bytes([reply[26], reply[27]]), told);
        assert_eq!(reply[28..48], packet(CONTAINER, AT_B, 63, 1_472)[..20]);
    }
}

#[test]
fn packets_of_the_hosts_own_overlay_address_say_nothing_about_use() {
    let own = [10, 5, 1, 0];
    for (source, protocol, purpose) in [
        (own, ip::PROTOCOL_ICMP, Purpose::Quiet),
        (own, ip::PROTOCOL_UDP, Purpose::Traffic),
        (CONTAINER, ip::PROTOCOL_ICMP, Purpose::Traffic),
    ] {
        let mut bench = Bench::new();
        let mut answer = packet(source, AT_B, 64, 100);
        answer[9] = protocol;
        fix_header_checksum(&mut answer);
        bench.handle(&answer);
        let [train] = bench.outbound.batch().queues()[0].trains() else { panic!("one train") };
        assert_eq!(train.passage.purpose, purpose);
        bench.outbound.sent(&bench.fib, train, &(0..1), NOW_NS);
        let counters = bench.tables.adjacencies().next().unwrap().2;
        assert_eq!(counters.read().tx_packets, 1);
        assert_eq!(counters.take_use(), purpose == Purpose::Traffic);
    }
}

#[test]
fn replies_beyond_the_rate_are_counted_and_not_sent() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.handle(&packet(CONTAINER, NOWHERE, 64, 48));
        bench.outbound.clear();
    }
    assert_eq!(bench.outbound.counters().icmp_suppressed.read(), 50);
    assert_eq!(bench.outbound.counters().drops(DropReason::NoRoute).read(), 100);
}

#[test]
fn replies_of_one_batch_never_outgrow_their_buffer() {
    let mut bench = Bench::new();
    for round in 0..1_000 {
        let packet = packet(CONTAINER, NOWHERE, 64, 48);
        let later_ns = NOW_NS + round * 10_000_000;
        bench.outbound.handle(&bench.fib, VnetHeader::default(), &packet, later_ns);
    }
    let sent = bench.replies().len() as u64;
    assert_eq!(sent + bench.outbound.counters().icmp_suppressed.read(), 1_000);
}

/// A UDP packet whose checksum the kernel left to the device.
fn partial() -> (VnetHeader, Vec<u8>, Sum) {
    let mut bytes = packet(CONTAINER, AT_B, 64, 61);
    bytes[24..26].copy_from_slice(&41u16.to_be_bytes());
    let pseudo = Sum::new().with(&bytes[12..20]).with_u16(17).with_u16(41);
    bytes[26..28].copy_from_slice(&pseudo.fold().to_be_bytes());
    let vnet =
        VnetHeader { flags: 1, checksum_start: 20, checksum_offset: 6, ..VnetHeader::default() };
    (vnet, bytes, pseudo)
}

#[test]
fn a_partial_checksum_is_finished() {
    let (vnet, bytes, pseudo) = partial();
    let mut bench = Bench::new();
    bench.handle_with(vnet, &bytes);
    let [sent] = &bench.sent()[..] else { panic!("one datagram") };
    assert_eq!(pseudo.with(&sent[20..]).checksum(), 0);
}

#[test]
fn a_checksum_field_outside_the_packet_is_malformed() {
    let (vnet, bytes, _) = partial();
    let mut bench = Bench::new();
    bench.handle_with(VnetHeader { checksum_start: 60, ..vnet }, &bytes);
    bench.dropped(DropReason::Malformed);
}

#[test]
fn a_checksum_field_inside_the_ip_header_is_malformed() {
    let (vnet, bytes, _) = partial();
    let mut bench = Bench::new();
    bench.handle_with(VnetHeader { checksum_start: 0, checksum_offset: 0, ..vnet }, &bytes);
    bench.dropped(DropReason::Malformed);
}

#[test]
fn a_super_packet_of_a_kind_nobody_asked_for_is_dropped() {
    // VIRTIO_NET_HDR_GSO_UDP (3): UDP fragmentation offload, which is never switched on.
    let vnet = VnetHeader { gso: Gso::Other(3), gso_size: 1_400, ..VnetHeader::default() };
    let mut bench = Bench::new();
    bench.handle_with(vnet, &packet(CONTAINER, AT_B, 64, 65_535));
    bench.dropped(DropReason::UnexpectedGso);
}

fn udp_super_packet(gso_size: u16) -> VnetHeader {
    VnetHeader {
        flags: 1,
        gso: Gso::UdpL4,
        gso_size,
        checksum_start: 20,
        checksum_offset: 6,
        ..VnetHeader::default()
    }
}

#[test]
fn a_super_packet_becomes_a_train_of_segments_one_hop_older() {
    let mut bench = Bench::new();
    bench.handle_with(udp_super_packet(1_000), &packet(CONTAINER, AT_B, 64, 28 + 2_500));
    let sent = bench.sent();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1_028, 1_028, 528]);
    for segment in &sent {
        assert_eq!(ipv4::Header::parse(segment).unwrap().hop_limit, 63);
        assert!(ipv4::verify_checksum(&segment[..20]));
    }
    let [train] = bench.outbound.batch().queues()[0].trains() else { panic!("one train") };
    assert_eq!((train.count, train.segment_len), (3, 1_028));
    bench.outbound.sent(&bench.fib, train, &(0..3), NOW_NS);
    let reading = bench.tables.adjacencies().next().unwrap().2.read();
    assert_eq!((reading.tx_packets, reading.tx_bytes), (3, 2_584));
}

#[test]
fn the_longest_segment_decides_whether_a_super_packet_fits_the_peer() {
    let mut bench = Bench::new();
    bench.handle_with(udp_super_packet(1_372), &packet(CONTAINER, AT_C, 64, 20_000));
    assert!(bench.sent().iter().all(|segment| segment.len() <= 1_400));
    let mut bench = Bench::new();
    bench.handle_with(udp_super_packet(1_373), &packet(CONTAINER, AT_C, 64, 20_000));
    bench.dropped(DropReason::TooBig);
    let [reply] = &bench.replies()[..] else { panic!("one reply") };
    assert_eq!(reply[20..22], [3, 4]);
}

#[test]
fn a_super_packet_of_more_segments_than_a_batch_holds_is_resumed_and_loses_none() {
    let mut bench = Bench::new();
    let whole = packet(CONTAINER, AT_B, 64, 65_535);
    bench.handle_with(udp_super_packet(1), &whole);
    let mut sent = bench.sent();
    let mut rounds = 1;
    while bench.outbound.is_unfinished() {
        bench.outbound.clear();
        bench.outbound.resume(&bench.fib, &whole, NOW_NS);
        sent.extend(bench.sent());
        rounds += 1;
    }
    assert!(rounds > 1);
    let payload: Vec<u8> = sent.iter().flat_map(|segment| segment[28..].to_vec()).collect();
    assert_eq!(payload, whole[28..]);
}

#[test]
fn a_batch_says_when_it_is_full_and_is_empty_after_clear() {
    let mut bench = Bench::new();
    let mut count = 0;
    while bench.outbound.batch().has_room() {
        // Longer each time, so that each is a train of its own.
        bench.handle(&packet(CONTAINER, AT_B, 64, 100 + count));
        count += 1;
    }
    assert_eq!(count, batch::MAX_TRAINS - 1);
    assert_eq!(bench.sent().len(), count);
    bench.outbound.clear();
    assert!(bench.outbound.batch().has_room());
    assert!(bench.sent().is_empty());
}
