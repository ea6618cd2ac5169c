//! What somebody on the path, or with a stolen key, can and cannot do. By the real cryptography.

use std::cell::Cell;

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver};
use snow::types::{Cipher, Dh, Hash, Random as SnowRandom};

use super::*;
use crate::mac::mac1_key;
use crate::message::{INITIATION_LEN, InitiationDraft, RESPONSE_LEN, set_cookie};
use crate::noise::{Initiator, Start, prologue};
use crate::payload::Payload;
use crate::resolver::Resolver;
use crate::testing::Seeded;
use crate::testing::world::EPOCH_NS;

const YEAR: u64 = 365 * 86_400 * SECOND;

thread_local! {
    static STARTED: Cell<usize> = const { Cell::new(0) };
}

/// Counts the handshakes that come as far as Diffie-Hellman.
fn counting(ephemeral: Zeroizing<[u8; 32]>) -> BoxedCryptoResolver {
    STARTED.set(STARTED.get() + 1);
    noise::suite(ephemeral)
}

fn said(world: &World, wall_ns: u64) -> Payload {
    Payload {
        timestamp: Timestamp::of_unix_ns(wall_ns),
        instance: [9; 8],
        spi_base: 0xc000_0040,
        lanes: 1,
        ciphers: 0b1110,
        cipher: 1,
        claim: claim(world.hosts.len()),
        psks: Psks::default().ids(),
    }
}

/// Returns an initiation to the second host, by any key and suite.
fn forged(world: &World, identity: &Identity, suite: noise::Suite, network: &str) -> Vec<u8> {
    let mut draft = InitiationDraft::new(77);
    let prologue = prologue(network);
    let start = Start { identity, prologue: &prologue, suite };
    let (key, said) = (world.key(1), said(world, EPOCH_NS + YEAR).emit());
    Initiator::new(start, &key, Zeroizing::new([5; 32]), &said, draft.noise()).unwrap();
    draft.finish(|before| mac1_key(&key).of(&[before])).to_vec()
}

#[test]
fn a_host_of_another_network_or_an_unknown_one_gets_no_answer() {
    let mut world = World::real(2, 1);
    let from = world.hosts[0].address;
    let known = world.hosts[0].identity.clone();
    let unknown = Identity::new(Zeroizing::new([8; 32])).unwrap();
    let network = "/coreos.com/network";
    for (identity, network, expected) in [
        (&known, "/other", Err(Refusal::Noise)),
        (&unknown, network, Err(Refusal::UnknownIdentity)),
        (&known, network, Ok(())),
    ] {
        let message = forged(&world, identity, noise::suite, network);
        assert_eq!(receive(&mut world, 1, &message, from), expected);
    }
    assert_eq!(world.messages, 1);
}

#[test]
fn the_right_identity_with_a_wrong_psk_gets_no_sa() {
    let psks = |bytes: &[u8]| {
        let list: Vec<_> = bytes.iter().map(|byte| Zeroizing::new(vec![*byte; 32])).collect();
        Psks::new("/coreos.com/network", &list).unwrap()
    };
    for (initiator, responder) in [(&[1][..], &[2][..]), (&[], &[2]), (&[1], &[])] {
        let mut world = World::real(2, 1);
        world.at(0, |node, at| node.set_psks(psks(initiator), at));
        world.at(1, |node, at| node.set_psks(psks(responder), at));
        world.send(0, 1);
        world.run(10 * SECOND);
        assert!(world.hosts[1].refused.iter().all(|refusal| *refusal == Refusal::Psk));
        assert_eq!((world.sets(0), world.sets(1)), (0, 0));
    }
}

/// A thief of the responder's key makes `ss` without the initiator's, and no more.
struct Thief(Zeroizing<[u8; 32]>);

thread_local! {
    static STOLEN: Cell<([u8; 32], [u8; 32])> = const { Cell::new(([0; 32], [0; 32])) };
}

fn thief(ephemeral: Zeroizing<[u8; 32]>) -> BoxedCryptoResolver {
    Box::new(Thief(ephemeral))
}

impl CryptoResolver for Thief {
    fn resolve_rng(&self) -> Option<Box<dyn SnowRandom>> {
        Resolver::new(self.0.clone()).resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let (stolen, victim) = STOLEN.get();
        let resolver = Resolver::new(self.0.clone());
        let mut responder = resolver.resolve_dh(choice)?;
        responder.set(&stolen);
        Some(Box::new(ThiefDh {
            own: resolver.resolve_dh(choice)?,
            responder,
            victim: Some(victim),
        }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        Resolver::new(self.0.clone()).resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Resolver::new(self.0.clone()).resolve_cipher(choice)
    }
}

struct ThiefDh {
    own: Box<dyn Dh>,
    responder: Box<dyn Dh>,
    /// Whose key this claims to be, as long as it is the static one.
    victim: Option<[u8; 32]>,
}

impl Dh for ThiefDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.own.set(private);
    }

    fn generate(&mut self, rng: &mut dyn SnowRandom) -> Result<(), snow::Error> {
        self.victim = None;
        self.own.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.victim.as_ref().map_or(self.own.pubkey(), |victim| victim)
    }

    fn privkey(&self) -> &[u8] {
        &[]
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        match &self.victim {
            // DH(responder's private, victim's public) is DH(victim's private, responder's).
            Some(victim) => self.responder.dh(victim, out),
            None => self.own.dh(public, out),
        }
    }
}

#[test]
fn to_a_thief_of_the_responders_key_nothing_takes_effect() {
    let mut world = World::real(2, 1);
    world.send(0, 1);
    world.run(100 * MS);
    let (peer, confirmed) = (world.key(0), world.hosts[1].confirmed.clone());
    let sealing = world.hosts[1].node.sealing(&peer);
    STOLEN.set((*world.hosts[1].identity.private(), peer.0));
    let own = Identity::new(Zeroizing::new([8; 32])).unwrap();
    let message = forged(&world, &own, thief, "/coreos.com/network");
    let from = "203.0.113.9:8286".parse().unwrap();
    // It opens, and says a time a year from now: this is what an initiation cannot prove.
    assert_eq!(receive(&mut world, 1, &message, from), Ok(()));
    let node = &world.hosts[1].node;
    assert_eq!(node.sealing(&peer), sealing);
    assert_eq!(node.endpoint(&peer), Some(world.hosts[0].address));
    assert_eq!(world.hosts[1].confirmed, confirmed);
    // The real peer, whose clock is right, is answered as before.
    world.run(SECOND);
    let asked = initiation(&mut world, 0, 1);
    assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
}

#[test]
fn a_key_of_small_order_gets_no_message_and_no_answer() {
    let mut world = World::real(2, 1);
    let mut one = [0; 32];
    one[0] = 1;
    for key in [[0; 32], one].map(PublicKey) {
        let record = Record { endpoint: Some(world.hosts[1].address), instance: None };
        world.at(0, |node, at| node.put_peer(key, record, at));
        world.at(0, |node, at| node.connect(&key, at));
        assert_eq!(world.messages, 0);
    }
    // As an ephemeral key, under a right mac1.
    let asked = initiation(&mut world, 0, 1);
    let mut message = bytes(&asked).to_vec();
    message[12..44].fill(0);
    let place = INITIATION_LEN - 32;
    let mac1 = mac1_key(&world.key(1)).of(&[&message[..place]]);
    message[place..place + 16].copy_from_slice(&mac1);
    assert_eq!(receive(&mut world, 1, &message, asked.from), Err(Refusal::Noise));
}

#[test]
fn a_message_cut_or_changed_anywhere_changes_nothing() {
    let mut world = World::real(2, 1);
    let asked = initiation(&mut world, 0, 1);
    let whole = bytes(&asked).to_vec();
    for len in 0..whole.len() {
        assert!(receive(&mut world, 1, &whole[..len], asked.from).is_err(), "{len} bytes");
    }
    // The cookie is not covered: without load nobody looks at it, and bytes 6, 7 are for later.
    for place in 8..INITIATION_LEN - 16 {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        assert_eq!(receive(&mut world, 1, &changed, asked.from), Err(Refusal::Mac1), "{place}");
    }
    assert_eq!((world.sets(1), world.messages), (0, 1));
    world.tap = Some(Vec::new());
    assert_eq!(receive(&mut world, 1, &whole, asked.from), Ok(()));
    let answer = world.tap.take().unwrap().pop().unwrap();
    world.net.clear();
    let whole = bytes(&answer).to_vec();
    let own_mac1 = mac1_key(&world.key(0));
    for place in 8..RESPONSE_LEN - 16 {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        let refused = receive(&mut world, 0, &changed, answer.from);
        assert_eq!(refused, Err(Refusal::Mac1), "byte {place}");
        // By somebody who can make a mac1, which is whoever knows the key. The responder's index
        // is no part of what Noise authenticates, and means nothing.
        if (12..RESPONSE_LEN - 32).contains(&place) {
            let (before, rest) = changed.split_at_mut(RESPONSE_LEN - 32);
            rest[..16].copy_from_slice(&own_mac1.of(&[before]));
            let expected = if place < 16 { Refusal::UnknownIndex } else { Refusal::Noise };
            assert_eq!(receive(&mut world, 0, &changed, answer.from), Err(expected), "{place}");
        }
    }
    assert_eq!(receive(&mut world, 0, &whole, answer.from), Ok(()));
}

#[test]
fn a_forged_response_leaves_the_handshake_as_it_was() {
    let mut world = World::real(2, 1);
    let asked = initiation(&mut world, 0, 1);
    world.tap = Some(Vec::new());
    assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
    let answer = world.tap.take().unwrap().pop().unwrap();
    let mut forged = bytes(&answer).to_vec();
    forged[100] ^= 1;
    let mac1 = mac1_key(&world.key(0)).of(&[&forged[..RESPONSE_LEN - 32]]);
    forged[RESPONSE_LEN - 32..RESPONSE_LEN - 16].copy_from_slice(&mac1);
    for _ in 0..3 {
        assert_eq!(receive(&mut world, 0, &forged, answer.from), Err(Refusal::Noise));
    }
    assert_eq!(receive(&mut world, 0, bytes(&answer), answer.from), Ok(()));
    assert_eq!(world.sets(0), 1);
}

#[test]
fn a_replayed_initiation_only_brings_a_handshake_with_the_real_peer() {
    let mut world = World::real(2, 1);
    let old = initiation(&mut world, 0, 1);
    world.run(2 * SECOND);
    world.send(0, 1);
    world.run(2 * SECOND);
    world.net.clear();
    world.tap = Some(Vec::new());
    let (peer, thief) = (world.key(0), "203.0.113.9:8286".parse().unwrap());
    for _ in 0..100 {
        assert_eq!(receive(&mut world, 1, bytes(&old), thief), Err(Refusal::Old));
    }
    let sent = world.tap.take().unwrap();
    let home = world.hosts[0].address;
    assert_eq!(sent.iter().map(|sent| sent.to).collect::<Vec<_>>(), [home], "one, to the peer");
    world.run(SECOND);
    assert_eq!(world.hosts[1].node.endpoint(&peer), Some(home));
}

#[test]
fn the_latest_initiation_is_answered_once() {
    let mut world = World::real(2, 1);
    let asked = initiation(&mut world, 0, 1);
    assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Ok(()));
    for pause in [MS, SECOND] {
        world.run(pause);
        assert_eq!(receive(&mut world, 1, bytes(&asked), asked.from), Err(Refusal::Replayed));
    }
    assert_eq!((world.sets(1), world.messages), (1, 2));
}

#[test]
fn a_host_whose_clock_went_back_a_year_is_back_within_a_second() {
    let mut world = World::real(2, 1);
    world.send(0, 1);
    world.run(SECOND);
    world.restart(0, EPOCH_NS - YEAR);
    world.send(0, 1);
    world.run(SECOND);
    assert_eq!(world.hosts[1].received[0], 2);
}

#[test]
fn without_mac1_or_under_load_without_a_cookie_nothing_comes_to_diffie_hellman() {
    let mut world = World::real(2, 1);
    let mut settings = world.hosts[1].settings.clone();
    settings.lanes = 1;
    world.hosts[1].node = Node::with_suite(settings, counting);
    world.tell(1, 0);
    let asked = initiation(&mut world, 0, 1);
    let whole: [u8; INITIATION_LEN] = bytes(&asked).try_into().unwrap();
    let (mut random, before) = (Seeded::new(3), STARTED.get());
    for _ in 0..1_000 {
        let mut flood = whole;
        let place = INITIATION_LEN - 32;
        random.fill(&mut flood[12..place + 16]);
        assert_eq!(receive(&mut world, 1, &flood, asked.from), Err(Refusal::Mac1));
    }
    world.queued = 9;
    for _ in 0..1_000 {
        let mut flood = whole;
        let mut cookie = [0; 16];
        random.fill(&mut cookie);
        set_cookie(&mut flood, &cookie);
        assert_eq!(receive(&mut world, 1, &flood, asked.from), Err(Refusal::Cookie));
    }
    assert_eq!(STARTED.get(), before);
    // Load lasts a second longer than the queue is full; then no cookie is asked for.
    world.queued = 8;
    world.net.clear();
    world.faults.lost = 100;
    world.run(900 * MS);
    assert_eq!(receive(&mut world, 1, &whole, asked.from), Err(Refusal::Cookie));
    world.run(100 * MS);
    world.faults.lost = 0;
    assert_eq!(receive(&mut world, 1, &whole, asked.from), Ok(()));
    assert_eq!(STARTED.get(), before + 1);
}

#[test]
fn under_load_an_initiator_comes_through_with_the_cookie_it_is_given() {
    let mut world = World::real(2, 1);
    world.queued = 64;
    world.send(0, 1);
    world.run(6 * MS);
    assert_eq!(world.hosts[1].received[0], 1);
    assert_eq!(world.hosts[1].refused, [Refusal::Cookie]);
    assert_eq!(world.messages, 4, "initiation, cookie, initiation, response");
}

#[test]
fn under_load_an_address_is_served_20_times_a_second_with_a_burst_of_5() {
    let mut world = World::real(2, 1);
    world.queued = 64;
    let from = world.hosts[0].address;
    let asked = initiation(&mut world, 0, 1);
    world.tap = Some(Vec::new());
    assert_eq!(receive(&mut world, 1, bytes(&asked), from), Err(Refusal::Cookie));
    let cookie: [u8; 16] = bytes(&world.tap.take().unwrap()[0])[28..].try_into().unwrap();
    let mut message: [u8; INITIATION_LEN] = bytes(&asked).try_into().unwrap();
    set_cookie(&mut message, &cookie);
    let outcomes: Vec<_> = (0..7).map(|_| receive(&mut world, 1, &message, from)).collect();
    assert_eq!(outcomes[0], Ok(()));
    assert_eq!(outcomes[1..5], [Err(Refusal::Replayed); 4]);
    assert_eq!(outcomes[5..], [Err(Refusal::Rate); 2]);
    let elsewhere = "203.0.113.9:8286".parse().unwrap();
    assert_eq!(receive(&mut world, 1, &message, elsewhere), Err(Refusal::Cookie));
}

#[test]
fn a_cookie_for_another_message_or_a_second_one_is_not_taken() {
    let mut world = World::real(2, 1);
    let asked = initiation(&mut world, 0, 1);
    let (index, mac1) = (bytes(&asked)[8..12].to_vec(), bytes(&asked)[172..188].to_vec());
    let message = |mac1: &[u8]| [&[0, 0, 0, 0, 3, 1, 0, 0], &index[..], mac1, &[7; 16]].concat();
    let other = message(&[0; 16]);
    assert_eq!(receive(&mut world, 0, &other, asked.to), Err(Refusal::UnknownIndex));
    let right = message(&mac1);
    assert_eq!(receive(&mut world, 0, &right, asked.to), Ok(()));
    assert_eq!(world.messages, 2);
    assert_eq!(receive(&mut world, 0, &right, asked.to), Err(Refusal::UnknownIndex));
}

#[test]
fn no_key_shows_in_debug_output() {
    let mut world = World::real(2, 1);
    world.send(0, 1);
    world.run(SECOND);
    let shown = format!("{:?}", world.hosts[0].node);
    let private = *world.hosts[0].identity.private();
    for bytes in [format!("{private:?}"), format!("{:?}", &private[..4])] {
        assert!(!shown.contains(bytes.trim_matches(['[', ']'])), "a private key");
    }
    assert!(!format!("{:?}", world.hosts[0].node.shared.settings).contains("private"));
}
