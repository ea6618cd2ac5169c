//! Handshake messages from anybody: to a node that knows one peer and waits for its answer.

use std::net::SocketAddr;

use tunneld_handshake::Random;
use tunneld_handshake::cipher::Ciphers;
use tunneld_handshake::key::Identity;
use tunneld_handshake::mac::mac1_key;
use tunneld_handshake::message::InitiationDraft;
use tunneld_handshake::node::{Moment, Node, Output, Record, Settings};
use tunneld_handshake::noise::{self, Initiator, Start};
use tunneld_handshake::payload::{self, Claim, Payload, Timestamp};
use tunneld_handshake::psk::Psks;
use zeroize::Zeroizing;

use crate::mutate::digest;

const NETWORK: &str = "/coreos.com/network";
const NOW_NS: u64 = 1_000_000_000;

/// The keys, made once: that takes longer than an input.
pub(crate) struct Handshake {
    here: Identity,
    there: Identity,
}

/// The same bytes for each input.
struct Counted(u64);

impl Random for Counted {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

impl Handshake {
    pub(crate) fn new() -> Option<Self> {
        let identity = |byte| Identity::new(Zeroizing::new([byte; 32])).ok();
        Some(Self { here: identity(1)?, there: identity(2)? })
    }

    fn node(&self) -> Node {
        Node::new(Settings {
            identity: self.here.clone(),
            psks: Psks::default(),
            network: NETWORK.to_owned(),
            ciphers: Ciphers::Auto { has_aes: true },
            instance: [1; 8],
            lanes: 1,
            claim: Claim::default(),
            keepalive_ns: None,
        })
    }

    /// Takes an input through: a byte for what is done to the rest (0 nothing, 1 the right mac1
    /// set, 2 taken for the payload of an initiation of the peer, with load from 128 on), then
    /// that.
    ///
    /// # Errors
    ///
    /// The rule that was broken.
    pub(crate) fn run(&self, input: &[u8]) -> Result<u64, String> {
        let Some((how, rest)) = input.split_first() else { return Ok(0) };
        let mut message = rest.to_vec();
        match how & 3 {
            1 => self.set_mac1(&mut message),
            2 => match rest.first_chunk() {
                Some(said) => message = self.initiation(said)?,
                None => return Ok(1),
            },
            _ => {}
        }
        let queued = if *how < 128 { 0 } else { 64 };
        let (mut node, mut random) = (self.node(), Counted(7));
        let wall = Timestamp::of_unix_ns(NOW_NS);
        let mut at = Moment { now_ns: NOW_NS, wall, random: &mut random };
        let place = SocketAddr::from(([192, 0, 2, 1], 8286));
        node.put_peer(
            self.there.public(),
            Record { endpoint: Some(place), instance: None },
            &mut at,
        );
        node.connect(&self.there.public(), &mut at);
        while node.next_output().is_some() {}
        let outcome = node.message(&message, place, queued, &mut at);
        let (mut sent, mut sets) = (0, 0);
        while let Some(output) = node.next_output() {
            match output {
                Output::Send { message: answer, .. } if answer.len() > message.len() => {
                    return Err(format!("{} bytes answer {}", answer.len(), message.len()));
                }
                Output::Send { .. } => sent += 1,
                Output::Install(_) => sets += 1,
                Output::Confirmed { .. } | Output::End { .. } | Output::Release { .. } => {
                    return Err("an unproved message takes effect".to_owned());
                }
                Output::GaveUp { .. } | Output::Dummy { .. } => {
                    return Err("a message ends or confirms something".to_owned());
                }
            }
        }
        if outcome.is_err() && sets > 0 || sent > 1 || sets > 1 {
            return Err(format!("{outcome:?} with {sent} messages and {sets} sets"));
        }
        Ok(digest(format!("{outcome:?} {sent} {sets} {}", how & 3).as_bytes()))
    }

    fn set_mac1(&self, message: &mut [u8]) {
        if let Some(place) = message.len().checked_sub(32) {
            let (before, rest) = message.split_at_mut(place);
            rest[..16].copy_from_slice(&mac1_key(&self.here.public()).of(&[before]));
        }
    }

    /// Returns an initiation of the peer that says what the input says. A payload that can be
    /// read must be written as it was read.
    fn initiation(&self, said: &[u8; payload::LEN]) -> Result<Vec<u8>, String> {
        if let Some(read) = Payload::parse(said) {
            if Payload::parse(&read.emit()) != Some(read) {
                return Err("a payload is not what was written".to_owned());
            }
        }
        let mut draft = InitiationDraft::new(9);
        let prologue = noise::prologue(NETWORK);
        let start = Start { identity: &self.there, prologue: &prologue, suite: noise::suite };
        let key = self.here.public();
        Initiator::new(start, &key, Zeroizing::new([3; 32]), said, draft.noise())
            .map_err(|error| error.to_string())?;
        Ok(draft.finish(|before| mac1_key(&key).of(&[before])).to_vec())
    }
}
