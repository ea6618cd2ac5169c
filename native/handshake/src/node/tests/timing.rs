//! The waits: each within a fifth of what the table says.

use super::*;

/// Returns when a host sends handshake messages within a time, in milliseconds from now.
fn times(world: &mut World, span_ns: u64) -> Vec<u64> {
    let (begun_ns, mut found, mut messages) = (world.now_ns, Vec::new(), world.messages);
    while let Some(next_ns) = world.next_ns().filter(|next_ns| *next_ns <= begun_ns + span_ns) {
        world.run(next_ns - world.now_ns);
        (messages..world.messages).for_each(|_| found.push((world.now_ns - begun_ns) / MS));
        messages = world.messages;
    }
    world.run(begun_ns + span_ns - world.now_ns);
    found
}

fn is_about(value: u64, expected: u64) -> bool {
    (expected * 4 / 5..=expected * 6 / 5 + 1).contains(&value)
}

#[test]
fn an_initiation_is_repeated_ever_later_and_given_up_until_there_is_a_packet_again() {
    let mut world = World::new(2, 1);
    world.faults.lost = 100;
    world.send(0, 1);
    let sent = times(&mut world, 200 * SECOND);
    let mut last = 0;
    for (index, at) in sent.iter().enumerate() {
        let wait = [500, 1_000, 2_000, 4_000, 5_000][index.min(4)];
        assert!(is_about(at - last, wait), "message {index} after {} ms", at - last);
        last = *at;
    }
    assert!((72_000 - 6_000..=114_000).contains(&last), "the last one after {last} ms");
    let peer = world.key(1);
    assert_eq!(world.hosts[0].gave_up, 1);
    assert!(!world.hosts[0].node.is_shaking_hands(&peer));
    world.send(0, 1);
    assert!(world.hosts[0].node.is_shaking_hands(&peer));
    assert_eq!(times(&mut world, 700 * MS).len(), 1);
}

#[test]
fn what_waits_for_a_peer_whose_address_is_taken_away_is_given_up() {
    let mut world = World::new(2, 1);
    world.faults.lost = 100;
    (0..3).for_each(|_| world.send(0, 1));
    let peer = world.key(1);
    world.at(0, |node, at| node.put_peer(peer, Record::default(), at));
    world.run(SECOND);
    assert_eq!(world.hosts[0].gave_up, 1);
    assert!(!world.hosts[0].node.is_shaking_hands(&peer));
    assert_eq!(world.at(0, |node, at| node.wants(&peer, 100, at)), Wait::Refused);
    world.run(100 * SECOND);
    assert_eq!(world.hosts[0].gave_up, 1, "once");
}

#[test]
fn the_initiator_rekeys_before_the_responder_would_and_only_one_that_seals() {
    for (sender, ages) in [(0, 110_000..=130_000), (1, 140_000..=160_000)] {
        let mut world = pair(3);
        // Both talk, so that nobody thinks the other dead; only one by data under its set.
        let rekeyed = (0..170).find_map(|_| {
            world.send(sender, 1 - sender);
            let found = times(&mut world, SECOND);
            (!found.is_empty()).then_some(world.now_ns / MS - 1_000)
        });
        let rekeyed = rekeyed.expect("new keys before the old ones end");
        assert!(ages.contains(&rekeyed), "after {rekeyed} ms by host {sender}");
    }
    let mut world = pair(3);
    assert!(times(&mut world, 179 * SECOND).is_empty(), "a quiet pair makes no new keys");
}

#[test]
fn a_set_that_has_sealed_half_of_what_it_may_is_followed_by_another() {
    let mut world = pair(1);
    let (first, peer) = (world.hosts[0].node.sealing(&world.key(1)), world.key(1));
    world.at(0, |node, at| node.exhausting(first.unwrap(), at));
    world.run(5 * MS);
    let second = world.hosts[0].node.sealing(&peer);
    assert_ne!(second, first);
    // The one before it has nothing to say any more.
    world.at(0, |node, at| node.exhausting(first.unwrap(), at));
    world.run(5 * MS);
    assert_eq!((world.hosts[0].node.sealing(&peer), world.messages), (second, 4));
}

#[test]
fn a_set_ends_180_s_after_its_handshake() {
    let mut world = pair(1);
    world.run(179_800 * MS);
    assert_eq!((world.sets(0), world.sets(1)), (1, 1));
    world.run(200 * MS);
    assert_eq!((world.sets(0), world.sets(1)), (0, 0));
}

#[test]
fn nothing_heard_for_15_s_after_sending_brings_a_handshake() {
    let mut world = pair(1);
    world.faults.lost = 100;
    world.send(0, 1);
    let first = times(&mut world, 30 * SECOND)[0];
    assert!(is_about(first, 15_000), "after {first} ms");
}

#[test]
fn data_that_only_one_side_sends_is_answered_by_one_dummy_after_10_s() {
    let mut world = pair(1);
    world.run(30 * SECOND);
    let before = world.hosts[1].dummies;
    world.send(0, 1);
    world.run(7_900 * MS);
    assert_eq!(world.hosts[1].dummies, before);
    world.run(4_200 * MS);
    assert_eq!(world.hosts[1].dummies, before + 1);
    // A dummy is no data: two hosts do not keep each other awake.
    world.run(100 * SECOND);
    assert_eq!((world.hosts[1].dummies, world.messages), (before + 1, 2));
}

#[test]
fn an_initiator_without_data_says_so_by_dummies_until_it_hears_something() {
    let mut world = World::new(2, 1);
    let peer = world.key(1);
    world.at(0, |node, at| node.connect(&peer, at));
    world.run(1_500_000);
    world.faults.lost = 100;
    let begun_ns = world.now_ns;
    let mut at_ms = Vec::new();
    while let Some(next_ns) = world.next_ns().filter(|next_ns| *next_ns < begun_ns + 14 * SECOND) {
        let before = world.hosts[0].dummies;
        world.run(next_ns - world.now_ns);
        (before..world.hosts[0].dummies).for_each(|_| at_ms.push((world.now_ns - begun_ns) / MS));
    }
    let gaps: Vec<u64> = at_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(at_ms.len(), 4, "{at_ms:?}");
    assert!(
        gaps.iter().zip([1_000, 2_000, 4_000]).all(|(gap, wait)| is_about(*gap, wait)),
        "{gaps:?}"
    );

    // One that is heard is answered by one dummy, and that is all.
    let mut world = World::new(2, 1);
    world.at(0, |node, at| node.connect(&peer, at));
    world.run(60 * SECOND);
    assert_eq!((world.hosts[0].dummies, world.hosts[1].dummies, world.messages), (1, 1, 2));
}

#[test]
fn a_keepalive_goes_every_so_many_seconds_and_starts_no_handshake() {
    let mut world = World::new(2, 1);
    world.hosts[0].settings.keepalive_ns = Some(25 * SECOND);
    world.restart(0, crate::testing::world::EPOCH_NS);
    world.send(0, 1);
    world.run(179 * SECOND);
    let dummies = world.hosts[0].dummies;
    assert!((5..=9).contains(&dummies), "{dummies} in 179 s");
    world.run(100 * SECOND);
    assert_eq!((world.messages, world.hosts[0].dummies), (2, dummies));
}

#[test]
fn a_restarted_peer_is_back_one_round_trip_after_its_first_datagram_is_not_understood() {
    let mut world = pair(1);
    world.restart(1, crate::testing::world::EPOCH_NS);
    world.send(0, 1);
    world.run(5 * MS);
    world.send(0, 1);
    world.send(1, 0);
    world.run(5 * MS);
    assert_eq!((world.hosts[1].received[0], world.hosts[0].received[1]), (2, 1));
    assert_eq!(world.messages, 4);
}

#[test]
fn unknown_spis_bring_one_handshake_in_5_s_for_a_peer_and_50_a_second_in_all() {
    let mut world = World::new(2, 1);
    world.faults.lost = 100;
    let from = world.hosts[1].address;
    let (mut begun, mut last) = (Vec::new(), 0);
    for ms in 0..12_000u64 {
        let here = world.key(1);
        let before = world.messages;
        world.at(0, |node, at| node.unknown_spi(from, at));
        if world.messages > before {
            begun.push(ms - last);
            last = ms;
        }
        // Whatever was begun is forgotten, so that only the rate is left.
        world.at(0, |node, at| {
            node.peers.get_mut(&here).unwrap().drop_pending(&mut node.shared, at.now_ns)
        });
        world.run(MS);
    }
    assert_eq!(begun, [0, 5_000, 5_000]);
    world.at(0, |node, at| node.unknown_spi("203.0.113.9:8286".parse().unwrap(), at));

    let mut world = World::new(120, 1);
    world.faults.lost = 100;
    let addresses: Vec<_> = world.hosts[1..].iter().map(|host| host.address).collect();
    addresses.iter().for_each(|from| world.at(0, |node, at| node.unknown_spi(*from, at)));
    assert_eq!(world.messages, 50);
}

#[test]
fn a_new_instance_in_the_record_brings_a_handshake_if_there_was_an_sa() {
    let mut world = pair(1);
    world.restart(1, crate::testing::world::EPOCH_NS);
    world.tell(0, 1);
    world.run(5 * MS);
    assert_eq!(world.messages, 4);
    // The same record again says nothing new, and neither does one of a stranger.
    world.tell(0, 1);
    world.run(SECOND);
    assert_eq!(world.messages, 4);
    let mut world = World::new(2, 1);
    world.restart(1, crate::testing::world::EPOCH_NS);
    world.tell(0, 1);
    assert_eq!(world.messages, 0);
    // A record that is older than the handshake says nothing either, however often it comes.
    let mut world = pair(1);
    let (key, endpoint) = (world.key(1), Some(world.hosts[1].address));
    let old = Record { endpoint, instance: Some(world.hosts[1].settings.instance) };
    world.restart(1, crate::testing::world::EPOCH_NS);
    world.send(1, 0);
    world.run(100 * MS);
    let messages = world.messages;
    world.at(0, |node, at| node.put_peer(key, old, at));
    assert_eq!(world.messages, messages);
}

#[test]
fn a_peer_is_answered_once_in_20_ms_unless_it_asks_later_than_ever() {
    let mut world = World::new(2, 1);
    let (early, late) = (initiation(&mut world, 0, 1), {
        world.run(MS);
        world.restart(0, crate::testing::world::EPOCH_NS);
        initiation(&mut world, 0, 1)
    });
    assert_eq!(receive(&mut world, 1, bytes(&late), late.from), Ok(()));
    assert_eq!(receive(&mut world, 1, bytes(&early), early.from), Err(Refusal::TooSoon));
    world.run(MS);
    world.restart(0, crate::testing::world::EPOCH_NS);
    let latest = initiation(&mut world, 0, 1);
    assert_eq!(receive(&mut world, 1, bytes(&latest), latest.from), Ok(()));
}
