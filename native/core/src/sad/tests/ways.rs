//! Packets that go and come as they should.

use super::*;

#[test]
fn a_packet_of_any_length_comes_out_as_it_went_in() {
    let (mut a, mut b, _) = pair();
    for len in (28..200).chain(1_430..=1_438) {
        for packet in [to_b(len), over_ipv6(&to_b(len - len.min(20) * usize::from(len > 1_418)))] {
            let [datagram] = &a.send(&packet)[..] else { panic!("one datagram") };
            assert_eq!(b.receive(datagram, None), [packet], "{len}");
        }
    }
    assert_eq!((a.dropped(), b.refused()), (vec![], vec![]));
}

#[test]
fn nothing_of_a_packet_stands_in_its_datagram() {
    let (mut a, _, _) = pair();
    let packet = to_b(600);
    let [datagram] = &a.send(&packet)[..] else { panic!("one datagram") };
    let seen = |bytes: &[u8]| datagram.windows(8).any(|window| window == bytes);
    assert!(!packet.chunks_exact(8).any(seen));
}

#[test]
fn the_largest_packet_fills_an_underlay_of_1500_bytes() {
    let (mut a, _, _) = pair();
    let lens = |sent: Vec<Vec<u8>>| sent.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lens(a.send(&to_b(1_438))), [1_500 - 20 - 8]);
    assert!(a.send(&to_b(1_439)).is_empty());
    assert_eq!(a.dropped(), [(DropReason::TooBig, 1)]);
    // Without DF it leaves in fragments.
    let mut fragmentable = to_b(1_439);
    fragmentable[6] = 0;
    fix_checksums(&mut fragmentable);
    assert_eq!(lens(a.send(&fragmentable)), [1_476]);
}

#[test]
fn a_datagram_too_large_for_its_path_leaves_in_fragments_as_nobody_can_be_told() {
    let (mut a, _, _) = pair();
    let Node { outbound, fib, .. } = &mut a;
    outbound[0].handle(fib, VnetHeader::default(), &to_b(1_400), NOW_NS);
    assert!(outbound[0].may_fragment(fib, 2, (0, 0)));
    let refused = crate::outbound::Refused { queue: 2, place: (0, 0), path_mtu_bytes: 1_400 };
    outbound[0].answer_refused(fib, &refused, NOW_NS);
    assert_eq!(outbound[0].replies().iter().count(), 0);
}

#[test]
fn super_packets_leave_sealed_as_one_train_and_are_joined_again() {
    for v6 in [false, true] {
        let (mut a, mut b, _) = pair();
        b.inbound.set_coalescing(Kinds { tcp: true, udp: true });
        let segment_len = MTU - if v6 { 80 } else { 40 };
        let payload: Vec<u8> =
            (0..40 * usize::from(segment_len) + 333).map(|place| (place % 251) as u8).collect();
        let (vnet, whole) = super_packet(&payload, segment_len, v6);
        let outbound = &mut a.outbound[0];
        outbound.handle(&a.fib, vnet, &whole, NOW_NS);
        let [train] = outbound.batch().queues()[2].trains() else { panic!("one train") };
        assert_eq!((train.count, train.endpoint), (41, endpoint(2)));
        let message = outbound.batch().queues()[2].pieces(train).collect::<Vec<_>>().concat();
        let arrived = b.receive(&message, Some(train.segment_len));
        let headers = whole.len() - payload.len();
        let carried: Vec<u8> = arrived.iter().flat_map(|one| one[headers..].to_vec()).collect();
        assert_eq!(carried, payload);
        let [delivery] = &b.inbound.deliveries()[..] else { panic!("one delivery") };
        assert_eq!((delivery.count, b.refused()), (41, vec![]));
        let holder = b.fib.lookup(if v6 {
            "fd00:5:1::2".parse::<IpAddr>().unwrap()
        } else {
            "10.5.1.2".parse().unwrap()
        });
        assert_eq!(delivery.adjacency.map(crate::fib::Target::Adjacency), holder);
    }
}

#[test]
fn each_worker_seals_a_lane_of_its_own_and_all_open() {
    let (mut a, mut b) = (Node::with(1, 3, &[2]), Node::new(2, &[1]));
    let keys = connect(7, (&a, 1), (&b, 2));
    for number in 1..=4 {
        for worker in [2, 0, 1] {
            let packet = to_b(100 + worker);
            let [datagram] = &a.send_by(worker, VnetHeader::default(), &packet)[..] else {
                panic!("one datagram")
            };
            assert_eq!(head(datagram), (keys.opening.id().number() | worker as u32, number));
            assert_eq!(b.receive(datagram, None), [packet]);
        }
    }
    assert_eq!(b.refused(), []);
}

#[test]
fn plain_and_sealed_datagrams_leave_by_sockets_of_their_own() {
    let mut a = Node::of(change(1, SourceCheck::Strict, &[2], &[3]), 1);
    let b = Node::new(2, &[1]);
    let keys = connect(7, (&a, 1), (&b, 2));
    let mut outbound = Outbound::new(0, Arc::default()).spread_over(3);
    outbound = outbound.leaving_in(Arc::clone(&a.waiting));
    let plain = packet([10, 5, 1, 2], [10, 5, 3, 2], 64, 100);
    for packet in [&to_b(100), &plain, &over_ipv6(&to_b(100))] {
        outbound.handle(&a.fib, VnetHeader::default(), packet, NOW_NS);
    }
    let by_v6 = "[fd00::2]:8286".parse().unwrap();
    a.peer(2).seal_by(&keys.sealing, by_v6);
    outbound.handle(&a.fib, VnetHeader::default(), &to_b(100), NOW_NS);
    let counts = outbound.batch().queues().iter().map(|queue| queue.datagrams_from(0, 0).count());
    let counts: Vec<_> = counts.collect();
    assert_eq!(counts[..3].iter().sum::<usize>(), 1, "one of three paths over IPv4");
    assert_eq!(counts[3..], [0, 0, 0, 2, 1, 0, 0], "both families inside go by one endpoint");
    outbound.clear();
    // Nothing of a probe's paths is left to choose.
    let probe = crate::probe::Probe {
        destination: "10.5.2.0".parse().unwrap(),
        size_bytes: 1_200,
        token: 7,
    };
    outbound.probe(&a.fib, &probe, NOW_NS);
    let counts = outbound.batch().queues().iter().map(|queue| queue.datagrams_from(0, 0).count());
    assert_eq!(counts.sum::<usize>(), 1);
    a.outbound.clear();
}

#[test]
fn a_peer_behind_a_translation_is_answered_by_the_port_it_sends_to() {
    let mut a = Node::with(1, 2, &[2]);
    let keys = connect(7, (&a, 1), (&Node::new(2, &[1]), 2));
    let translated = [endpoint(9), "[fd00::9]:40000".parse().unwrap()];
    for (endpoint, queues) in
        [endpoint(2), translated[0], translated[1]].into_iter().zip([[2, 2], [2, 4], [3, 5]])
    {
        a.peer(2).seal_by(&keys.sealing, endpoint);
        for (outbound, queue) in a.outbound.iter_mut().zip(queues) {
            outbound.handle(&a.fib, VnetHeader::default(), &to_b(100), NOW_NS);
            let batch = outbound.batch().queues().iter();
            let used = batch.map(|queue| queue.trains().len()).enumerate();
            assert_eq!(used.filter(|(_, trains)| *trains > 0).collect::<Vec<_>>(), [(queue, 1)]);
            outbound.clear();
        }
    }
}

#[test]
fn what_goes_elsewhere_with_new_keys_shares_no_train_with_what_went_before() {
    let (mut a, b, _) = pair();
    let newer = keys_by(9, (&a, 1), (&b, 2), claim(1));
    let outbound = &mut a.outbound[0];
    for endpoints in [[endpoint(2), endpoint(4)], [endpoint(4), endpoint(2)]] {
        for endpoint in endpoints {
            a.sad.peer(key(2)).seal_by(&newer.sealing, endpoint);
            (0..3).for_each(|_| {
                outbound.handle(&a.fib, VnetHeader::default(), &to_b(100), NOW_NS);
            });
        }
    }
    let trains = outbound.batch().queues()[2].trains().iter();
    let trains: Vec<_> = trains.map(|train| (train.endpoint, train.count)).collect();
    assert_eq!(trains, [(endpoint(2), 3), (endpoint(4), 6), (endpoint(2), 3)]);
}
