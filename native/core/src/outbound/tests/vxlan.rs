//! Outbound where the peers are reached by VXLAN.

use super::*;
use crate::encapsulation::Encapsulation;
use crate::testing::{MAC, MAC_B, MAC_V6, dual_stack, vtep, vxlan_change};

fn bench() -> Bench {
    let mut tables = Tables::new(1);
    let fib = tables.commit(vxlan_change(SourceCheck::Strict)).unwrap();
    Bench { outbound: Outbound::new(0, Arc::default()), fib, tables }
}

fn framed_for_b(packet: &[u8]) -> Vec<u8> {
    let head = [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], &MAC_B.0, &MAC.0, &[0x08, 0x00]];
    [&head.concat(), packet].concat()
}

#[test]
fn a_packet_leaves_in_a_frame_with_all_its_hops() {
    for hop_limit in [64, 1] {
        let mut bench = bench();
        let packet = packet(CONTAINER, AT_B, hop_limit, 100);
        bench.handle(&packet);
        assert_eq!(bench.sent(), [framed_for_b(&packet)]);
    }
}

#[test]
fn segments_leave_in_a_train_of_frames_and_count_without_them() {
    let mut bench = bench();
    let whole = packet(CONTAINER, AT_B, 64, 28 + 5_000);
    bench.handle_with(udp_super_packet(1_000), &whole);
    let [train] = bench.outbound.batch().queues()[0].trains() else { panic!("one train") };
    assert_eq!((train.count, train.segment_len), (5, 22 + 28 + 1_000));
    for frame in bench.sent() {
        assert_eq!(frame[..22], framed_for_b(&[])[..]);
        assert_eq!(ipv4::Header::parse(&frame[22..]).unwrap().hop_limit, 64);
    }
    bench.outbound.sent(&bench.fib, train, &(0..5), NOW_NS);
    let reading = bench.tables.adjacencies().next().unwrap().2.read();
    assert_eq!((reading.tx_packets, reading.tx_bytes), (5, 5 * 1_028));
}

#[test]
fn a_super_packet_too_large_for_a_batch_goes_on_in_frames() {
    let mut bench = bench();
    let whole = packet(CONTAINER, AT_B, 64, 28 + 60_000);
    bench.handle_with(udp_super_packet(10), &whole);
    let mut sent = bench.sent();
    while bench.outbound.is_unfinished() {
        bench.outbound.clear();
        bench.outbound.resume(&bench.fib, &whole, NOW_NS);
        sent.extend(bench.sent());
    }
    assert_eq!(sent.len(), 6_000);
    assert!(sent.iter().all(|frame| frame[..22] == framed_for_b(&[])[..]));
}

#[test]
fn without_an_address_for_frames_of_its_family_nothing_leaves() {
    let mut change = vxlan_change(SourceCheck::Strict);
    change.settings.as_mut().unwrap().vtep.as_mut().unwrap().mac = None;
    let mut bench = bench();
    bench.fib = bench.tables.commit(change).unwrap();
    bench.handle(&packet(CONTAINER, AT_B, 64, 100));
    bench.dropped(DropReason::Ipv4Disabled);
}

#[test]
fn a_flow_leaves_by_one_queue() {
    let mut bench = bench();
    bench.outbound = Outbound::new(0, Arc::default()).spread_over(4);
    for destination in 2..102 {
        for len in [100, 200] {
            bench.handle(&packet(CONTAINER, [10, 5, 2, destination], 64, len));
        }
    }
    let mut seen = std::collections::BTreeMap::new();
    for (number, queue) in bench.outbound.batch().queues().iter().enumerate() {
        for datagram in queue.datagrams_from(0, 0) {
            assert_eq!(*seen.entry(datagram.payload[41]).or_insert(number), number);
        }
    }
    let used: std::collections::BTreeSet<_> = seen.values().copied().collect();
    assert_eq!((seen.len(), used.len()), (100, 4));
}

#[test]
fn a_probe_leaves_in_a_frame_of_its_own_family() {
    let mut change = dual_stack(SourceCheck::Strict);
    change.settings.as_mut().unwrap().vtep = Some(vtep());
    for (_, parameters) in &mut change.put_adjacencies {
        parameters.encapsulation = Encapsulation::Vxlan { vtep_mac: MAC_B };
    }
    let fib = Tables::new(1).commit(change).unwrap();
    for (destination, source, ethertype, version) in
        [("10.5.2.0", MAC, [0x08, 0x00], 4), ("fd00:5:2::", MAC_V6, [0x86, 0xdd], 6)]
    {
        let mut outbound = Outbound::new(0, Arc::default());
        let destination = destination.parse().unwrap();
        outbound.probe(
            &fib,
            &crate::probe::Probe { destination, size_bytes: 1_200, token: 7 },
            NOW_NS,
        );
        let sent: Vec<_> = outbound.batch().datagrams().map(|one| one.payload).collect();
        let [frame] = sent[..] else { panic!("one probe, not {}", sent.len()) };
        let addresses = [&MAC_B.0[..], &source.0, &ethertype].concat();
        assert_eq!((&frame[8..22], frame[22] >> 4), (&addresses[..], version));
        assert_eq!(frame.len(), 22 + 1_200);
    }
}
