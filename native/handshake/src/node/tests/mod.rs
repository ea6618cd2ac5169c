//! The state machine, each row of its table, by two hosts and a network without faults.

mod attacks;
mod timing;

use std::net::SocketAddr;

use super::*;
use crate::payload::Claim;
use crate::testing::world::{Content, Datagram, Faults, SECOND, World, claim};

const MS: u64 = SECOND / 1_000;

/// Two hosts that have SAs, the first having begun.
fn pair(seed: u64) -> World {
    let mut world = World::new(2, seed);
    world.send(0, 1);
    world.run(100 * MS);
    assert_eq!((world.hosts[1].received[0], world.messages), (1, 2));
    world
}

/// What a host does with a message from another one.
fn receive(
    world: &mut World,
    host: usize,
    message: &[u8],
    from: SocketAddr,
) -> Result<(), Refusal> {
    let queued = world.queued;
    world.at(host, |node, at| node.message(message, from, queued, at))
}

/// Returns the handshake message that a host makes for another one, and loses it.
fn initiation(world: &mut World, host: usize, there: usize) -> Datagram {
    let peer = world.key(there);
    world.tap = Some(Vec::new());
    world.faults.lost = 100;
    world.at(host, |node, at| node.connect(&peer, at));
    world.faults.lost = 0;
    world.tap.take().unwrap().pop().expect("an initiation")
}

fn bytes(datagram: &Datagram) -> &[u8] {
    match &datagram.content {
        Content::Handshake(message) => message,
        Content::Esp { .. } => panic!("no handshake message"),
    }
}

#[test]
fn a_packet_brings_keys_and_is_delivered_in_two_round_trips_at_most() {
    let mut world = World::new(2, 1);
    (0..3).for_each(|_| world.send(0, 1));
    world.run(5 * MS);
    assert_eq!((world.hosts[1].received[0], world.messages), (3, 2));
    // The other side has had its proof, and answers under the same set.
    world.send(1, 0);
    world.run(5 * MS);
    assert_eq!((world.hosts[0].received[1], world.messages), (1, 2));
}

#[test]
fn if_both_begin_both_directions_settle() {
    let mut world = World::new(2, 1);
    world.send(0, 1);
    world.send(1, 0);
    world.run(SECOND);
    assert_eq!((world.hosts[1].received[0], world.hosts[0].received[1]), (1, 1));
    assert_eq!((world.messages, world.sets(0), world.sets(1)), (4, 2, 2));
    for _ in 0..60 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(SECOND);
    }
    assert_eq!(world.messages, 4, "nobody begins again");
}

#[test]
fn under_half_of_all_datagrams_lost_both_come_through() {
    let mut world = World::new(2, 5);
    world.faults = Faults { lost: 50, ..Faults::default() };
    for _ in 0..120 {
        world.send(0, 1);
        world.send(1, 0);
        world.run(SECOND);
    }
    let (there, back) = (world.hosts[1].received[0], world.hosts[0].received[1]);
    assert!(there > 40 && back > 40, "{there} and {back} of 120");
}

#[test]
fn a_responder_seals_nothing_before_the_first_authentic_packet() {
    let mut world = World::new(2, 1);
    let first = initiation(&mut world, 0, 1);
    assert_eq!(receive(&mut world, 1, bytes(&first), first.from), Ok(()));
    let peer = world.key(0);
    assert_eq!((world.sets(1), world.hosts[1].node.sealing(&peer)), (1, None));
    assert!(world.hosts[1].confirmed.is_empty());
    world.run(5 * MS);
    assert!(world.hosts[1].node.sealing(&peer).is_some());
    assert_eq!(world.hosts[1].confirmed, [(peer, first.from, claim(0))]);
}

#[test]
fn four_confirmed_sets_and_two_unconfirmed_answers_are_kept() {
    let mut world = pair(1);
    for _ in 0..10 {
        let peer = world.key(1);
        world.run(SECOND);
        world.at(0, |node, at| node.connect(&peer, at));
        world.run(100 * MS);
    }
    assert_eq!((world.sets(0), world.sets(1)), (4, 4));
    for _ in 0..10 {
        world.run(SECOND);
        world.restart(0, crate::testing::world::EPOCH_NS);
        let asked = initiation(&mut world, 0, 1);
        assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
        world.net.clear();
    }
    assert_eq!(world.sets(1), 6);
}

#[test]
fn a_confirmed_handshake_from_elsewhere_moves_the_endpoint_and_a_new_record_moves_it_back() {
    let mut world = pair(1);
    let (peer, home) = (world.key(0), world.hosts[0].address);
    let elsewhere: SocketAddr = "198.51.100.7:4321".parse().unwrap();
    world.hosts[0].address = elsewhere;
    let asked = initiation(&mut world, 0, 1);
    assert_eq!(receive(&mut world, 1, bytes(&asked), elsewhere), Ok(()));
    assert_eq!(world.hosts[1].node.endpoint(&peer), Some(home), "nothing is proved yet");
    world.run(100 * MS);
    assert_eq!(world.hosts[1].node.endpoint(&peer), Some(elsewhere));
    world.hosts[0].address = "198.51.100.8:8286".parse().unwrap();
    world.tell(1, 0);
    assert_eq!(world.hosts[1].node.endpoint(&peer), Some(world.hosts[0].address));
}

#[test]
fn a_claim_takes_effect_at_the_other_side_within_two_seconds() {
    let mut world = pair(1);
    let new = Claim { v4: Some(([10, 5, 77, 0].into(), 24)), v6: None };
    world.at(0, |node, at| node.set_claim(new, at));
    world.run(2_100 * MS);
    let peer = world.key(0);
    assert_eq!(world.hosts[1].confirmed.last(), Some(&(peer, world.hosts[0].address, new)));
}

#[test]
fn keys_forgotten_are_made_anew() {
    let mut world = pair(1);
    world.at(0, |node, at| node.forget_keys(at));
    assert_eq!(world.sets(0), 0);
    world.run(2_100 * MS);
    world.send(0, 1);
    world.send(1, 0);
    world.run(100 * MS);
    assert_eq!((world.hosts[1].received[0], world.hosts[0].received[1]), (2, 1));
}

#[test]
fn an_answer_to_what_was_asked_before_keys_were_forgotten_makes_none() {
    let mut world = World::new(2, 1);
    let asked = initiation(&mut world, 0, 1);
    world.tap = Some(Vec::new());
    assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
    let answer = world.tap.take().unwrap().pop().unwrap();
    world.at(0, |node, at| node.forget_keys(at));
    // The other copy of this host could take the same answer.
    let refused = receive(&mut world, 0, bytes(&answer), answer.from);
    assert_eq!((refused, world.sets(0)), (Err(Refusal::UnknownIndex), 0));
    world.run(SECOND);
    assert_eq!(world.sets(0), 1, "asked anew");
}

#[test]
fn a_peer_no_longer_trusted_has_no_set_and_gets_no_answer() {
    let mut world = pair(1);
    let peer = world.key(0);
    world.at(1, |node, at| node.remove_peer(&peer, at));
    assert_eq!(world.sets(1), 0);
    let asked = initiation(&mut world, 0, 1);
    let refused = receive(&mut world, 1, bytes(&asked), asked.from);
    assert_eq!(refused, Err(Refusal::UnknownIdentity));
    let wait = world.at(1, |node, at| node.wants(&peer, 100, at));
    assert_eq!(wait, Wait::Refused);
}

#[test]
fn packets_that_wait_are_bounded_and_the_newest_stay() {
    let mut world = World::new(2, 1);
    world.faults.lost = 100;
    (0..100).for_each(|_| world.send(0, 1));
    world.faults.lost = 0;
    world.run(SECOND);
    assert_eq!(world.hosts[1].received[0], 64);
}

#[test]
fn a_psk_is_exchanged_without_a_pair_that_cannot_talk() {
    let psk = |byte| Zeroizing::new(vec![byte; 32]);
    let psks = |list: &[Zeroizing<Vec<u8>>]| Psks::new("/coreos.com/network", list).unwrap();
    let steps = [
        [psks(&[psk(1)]), psks(&[psk(1), psk(2)])],
        [psks(&[psk(2), psk(1)]), psks(&[psk(1), psk(2)])],
        [psks(&[psk(2), psk(1)]), psks(&[psk(2)])],
    ];
    for (seed, step) in steps.into_iter().enumerate() {
        for first in [0, 1] {
            let mut world = World::new(2, seed as u64);
            for (host, psks) in step.iter().enumerate() {
                world.at(host, |node, at| node.set_psks(psks.clone(), at));
            }
            world.send(first, 1 - first);
            world.run(100 * MS);
            assert_eq!(world.hosts[1 - first].received[first], 1, "step {seed}");
        }
    }
}

#[test]
fn a_pair_without_a_common_cipher_has_no_sa() {
    use crate::cipher::Cipher;
    let mut world = World::new(2, 1);
    world.at(0, |node, at| node.set_ciphers(Ciphers::Only(Cipher::Aes128Gcm), at));
    world.at(1, |node, at| node.set_ciphers(Ciphers::Only(Cipher::Aes256Gcm), at));
    world.send(0, 1);
    world.run(5 * MS);
    assert_eq!((world.sets(0), world.sets(1)), (0, 0));
    assert_eq!(world.hosts[1].refused, [Refusal::Cipher]);
}

#[test]
fn an_answer_by_a_cipher_that_the_initiator_does_not_take_makes_no_sa() {
    use crate::cipher::Cipher;
    let mut world = World::new(2, 1);
    let asked = initiation(&mut world, 0, 1);
    // What it said it takes, it does not take any more.
    world.at(0, |node, at| node.set_ciphers(Ciphers::Only(Cipher::ChaCha20Poly1305), at));
    assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
    world.run(5 * MS);
    assert_eq!((world.hosts[0].refused.clone(), world.sets(0)), (vec![Refusal::Cipher], 0));
    // The next one, by what is taken now, has an answer.
    world.run(SECOND);
    assert_eq!((world.sets(0), world.sets(1)), (1, 2));
}

#[test]
fn a_set_that_a_later_one_has_overtaken_does_not_become_the_sending_one() {
    let mut world = World::new(2, 1);
    let mut sets = Vec::new();
    for _ in 0..2 {
        world.restart(0, crate::testing::world::EPOCH_NS);
        let asked = initiation(&mut world, 0, 1);
        assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
        world.net.clear();
        let mut known = world.hosts[1].node.shared.sets.keys().copied();
        let new = known.find(|set| !sets.contains(set));
        sets.extend(new);
        world.run(100 * MS);
    }
    let peer = world.key(0);
    world.at(1, |node, at| node.heard(sets[1], true, at));
    assert_eq!(world.hosts[1].node.sealing(&peer), Some(sets[1]));
    // A packet of the former process, late: its keys are gone there.
    world.at(1, |node, at| node.heard(sets[0], true, at));
    assert_eq!(world.hosts[1].node.sealing(&peer), Some(sets[1]));
    assert_eq!(world.hosts[1].confirmed.len(), 2);
}
