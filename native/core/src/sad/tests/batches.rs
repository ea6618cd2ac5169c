//! Datagrams that arrive: what is in a train beside data, and what is hostile.

use super::*;

/// Datagrams of equal length.
fn train(a: &mut Node, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| a.send(&to_b(100)).remove(0)).collect()
}

#[test]
fn a_train_is_told_apart_datagram_by_datagram() {
    let (mut a, mut b, keys) = pair();
    let data = train(&mut a, 4);
    let mut room = [0; SealingSet::DUMMY_ROOM];
    let dummy_len = keys.sealing.seal_dummy(NOW_NS, &mut room).unwrap();
    let handshake = [&[0, 0, 0, 0, 1, 1, 0, 0][..], &[7; 24]].concat();
    let tails: [&[u8]; 4] = [&handshake, &[0xff], &room[..dummy_len], &data[3][..35]];
    let drops = [None, Some(DropReason::Keepalive), None, Some(DropReason::EspMalformed)];
    let mut expected = Vec::new();
    for (place, (tail, drop)) in tails.iter().zip(drops).enumerate() {
        let message = [&data[place.min(2)], *tail].concat();
        let delivered = b.receive(&message, Some(data[0].len()));
        // The last one's data is a replay.
        let replay = place == 3;
        assert_eq!(delivered.len(), usize::from(!replay));
        expected.extend(drop.map(|reason| (reason, 1)));
        expected.extend(replay.then_some((DropReason::EspReplayed, 1)));
        let controls: Vec<_> = b.inbound.controls().iter().collect();
        match place {
            0 => assert_eq!(controls, [(endpoint(9), &handshake[..])]),
            _ => assert_eq!(controls, []),
        }
    }
    expected.sort_unstable_by_key(|(reason, _)| *reason as u8);
    assert_eq!(b.refused(), expected);
    assert_eq!(b.inbound.counters().packets.read(), 8);
}

#[test]
fn dummies_are_heard_and_nothing_else() {
    let (mut a, mut b, keys) = pair();
    assert!(!keys.sealing.take_sent());
    assert_eq!(keys.opening.take_heard(), Heard::Nothing);
    let mut room = [0; SealingSet::DUMMY_ROOM];
    let len = keys.sealing.seal_dummy(NOW_NS, &mut room).unwrap();
    assert_eq!(len, 36);
    assert_eq!(b.receive(&room[..len], None), Vec::<Vec<u8>>::new());
    assert!(!keys.sealing.take_sent(), "a dummy asks for no answer");
    assert_eq!(keys.opening.take_heard(), Heard::Dummy);
    assert_eq!(keys.opening.take_heard(), Heard::Nothing);
    let [datagram] = &a.send(&to_b(100))[..] else { panic!("one datagram") };
    assert_eq!((keys.sealing.take_sent(), keys.sealing.take_sent()), (true, false));
    assert_eq!(b.receive(datagram, None).len(), 1);
    keys.sealing.seal_dummy(NOW_NS, &mut room).unwrap();
    b.receive(&room[..len], None);
    assert_eq!(keys.opening.take_heard(), Heard::Data, "a dummy behind data hides none");
    assert_eq!(b.refused(), []);
}

#[test]
fn the_first_authentic_packet_proves_a_set_and_no_other_does() {
    let (mut a, mut b, keys) = pair();
    let [first] = &a.send(&to_b(100))[..] else { panic!("one datagram") };
    let mut forged = first.clone();
    forged[40] ^= 1;
    b.receive(&forged, None);
    assert!(!b.inbound.proves());
    assert_eq!(keys.opening.take_heard(), Heard::Nothing);
    b.receive(first, None);
    assert!(b.inbound.proves());
    b.receive(first, None);
    assert!(!b.inbound.proves(), "a replay proves nothing, and a batch is told once");
    keys.opening.confirm();
    let [second] = &a.send(&to_b(100))[..] else { panic!("one datagram") };
    assert_eq!(b.receive(second, None).len(), 1);
    assert!(!b.inbound.proves());
}

#[test]
fn a_datagram_opens_once_in_whatever_batch_it_comes() {
    let (mut a, mut b, _) = pair();
    let data = train(&mut a, 3);
    let message = [&data[0][..], &data[1], &data[0]].concat();
    assert_eq!(b.receive(&message, Some(data[0].len())).len(), 2);
    for _ in 0..3 {
        assert!(b.receive(&message, Some(data[0].len())).is_empty());
    }
    assert_eq!(b.receive(&data[2], None).len(), 1);
    assert_eq!(b.refused(), [(DropReason::EspReplayed, 1 + 9)]);
}

#[test]
fn honest_packets_pass_among_hostile_ones_and_each_of_those_is_counted_as_what_it_is() {
    let (mut a, mut b, keys) = pair();
    let mut c = Node::with(1, 2, &[2]);
    let other = connect(11, (&c, 1), (&b, 2));
    b.sad.remove(other.opening.id());
    let [stranger] = &c.send(&to_b(100))[..] else { panic!("one datagram") };
    let spi = keys.opening.id().number();
    let mut replays = 0;
    for round in 0..20 {
        let [honest] = &a.send(&to_b(100))[..] else { panic!("one datagram") };
        let edited = |place: usize, bytes: &[u8]| {
            let mut datagram = honest.clone();
            datagram[place..place + bytes.len()].copy_from_slice(bytes);
            datagram
        };
        let flipped = |place: usize| edited(place, &[honest[place] ^ 0x10]);
        let lane_1 = edited(0, &(spi | 1).to_be_bytes());
        let hostile = [
            flipped(4),
            flipped(9),
            flipped(20),
            flipped(honest.len() - 1),
            lane_1,
            edited(4, &[0; 4]),
            edited(0, &[0x40]),
            stranger.clone(),
            honest[..honest.len() - 4].to_vec(),
        ];
        b.inbound.clear();
        let mut delivered = 0;
        for (place, datagram) in hostile.iter().enumerate() {
            if place == round % 9 {
                delivered += b.go_on(Via::Esp, endpoint(1), honest, None).len();
            }
            // These have the honest one's number; the first one's is far ahead.
            replays += u64::from([1, 2, 3, 8].contains(&place) && delivered == 1);
            b.go_on(Via::Esp, endpoint(1), datagram, None);
        }
        assert_eq!(delivered, 1);
        assert_eq!(b.inbound.deliveries().len(), 1, "round {round}");
    }
    // The lane that there is not is no SA at all.
    let expected = [
        (DropReason::EspMalformed, 20),
        (DropReason::EspUnknownSpi, 40),
        (DropReason::EspSequence, 20),
        (DropReason::EspReplayed, replays),
        (DropReason::EspForged, 100 - replays),
    ];
    assert_eq!(b.refused(), expected);
}

#[test]
fn unknown_spis_are_told_once_for_each_source_and_batch() {
    let (mut a, mut b, keys) = pair();
    b.sad.remove(keys.opening.id());
    let data = train(&mut a, 3);
    b.receive_from(endpoint(1), &data.concat(), Some(data[0].len()));
    b.go_on(Via::Esp, endpoint(4), &data[0], None);
    assert_eq!(b.inbound.unknown_spis(), [endpoint(1), endpoint(4)]);
    for port in 1..100 {
        b.go_on(Via::Esp, (Ipv4Addr::new(192, 168, 0, 7), port).into(), &data[0], None);
    }
    assert_eq!(b.inbound.unknown_spis().len(), 8);
    b.inbound.clear();
    assert_eq!(b.inbound.unknown_spis(), []);
    assert_eq!(b.refused(), [(DropReason::EspUnknownSpi, 3 + 1 + 99)]);
}

#[test]
fn what_comes_where_there_is_no_encryption_is_not_opened() {
    let (mut a, b, _) = pair();
    let [datagram] = &a.send(&to_b(100))[..] else { panic!("one datagram") };
    let mut inbound = Inbound::new(0, Arc::default());
    let (mut memory, place) = (datagram.clone(), 0..datagram.len());
    inbound.handle(&b.fib, Via::Esp, endpoint(1), &mut memory, place, None, NOW_NS);
    assert!(inbound.deliveries().is_empty());
    assert_eq!(drops(inbound.counters()), [(DropReason::NotConfigured, 1)]);
}
