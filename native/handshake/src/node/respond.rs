//! The answering side: what is checked in which order, and what an answer is.
//!
//! Nothing before mac1; no Diffie-Hellman without it, nor, under load, without a right cookie.
//! An answer changes nothing for the peer before its first authentic packet.

use std::net::SocketAddr;

use crate::cipher::Cipher;
use crate::kdf::is_equal;
use crate::key::PublicKey;
use crate::message::{Cookie, Initiation, ResponseDraft};
use crate::noise::Responder;
use crate::payload::{self, Payload, Timestamp};

use super::peer::{Peer, Set};
use super::shared::Shared;
use super::timers::{ANSWER_NS, END_NS, REKEY_RESPONDER_NS, rekey_age};
use super::{Moment, Output, Refusal, SaSet, SetId, ephemeral};

/// An initiation that has been opened.
pub(super) struct Asked {
    noise: Responder,
    said: Payload,
    sender: u32,
}

impl Asked {
    /// Returns whom it is from, by its own word.
    pub(super) fn key(&self) -> PublicKey {
        self.noise.remote()
    }
}

/// Checks an initiation and opens it.
pub(super) fn read(
    shared: &mut Shared,
    initiation: &Initiation<'_>,
    from: SocketAddr,
    queued: usize,
    at: &mut Moment<'_>,
) -> Result<Asked, Refusal> {
    let is_loaded = shared.is_loaded(queued, at.now_ns);
    let mac1 = initiation.mac1();
    if !is_equal(&shared.mac1.of(&[initiation.before_mac1()]), &mac1) {
        return Err(Refusal::Mac1);
    }
    if is_loaded {
        if !shared.cookies.is_right(&initiation.cookie(), from, at.now_ns) {
            let cookie = shared.cookies.cookie(from, at.now_ns, at.random);
            let message = Cookie { receiver: initiation.sender(), mac1, cookie }.emit().to_vec();
            shared.outputs.push_back(Output::Send { to: from, message });
            return Err(Refusal::Cookie);
        }
        if !shared.sources.take(from.ip(), at.now_ns) {
            return Err(Refusal::Rate);
        }
    }
    let mut read = [0; payload::LEN];
    let noise = Responder::new(shared.start(), ephemeral(at.random), initiation.noise(), &mut read);
    let noise = noise.map_err(|_| Refusal::Noise)?;
    let said = Payload::parse(&read).ok_or(Refusal::Payload)?;
    Ok(Asked { noise, said, sender: initiation.sender() })
}

/// Answers an initiation of a peer.
pub(super) fn answer(
    peer: &mut Peer,
    shared: &mut Shared,
    asked: Asked,
    from: SocketAddr,
    at: &mut Moment<'_>,
) -> Result<(), Refusal> {
    let Asked { noise, said, sender } = asked;
    if said.timestamp == peer.greatest || peer.has_answered(said.timestamp) {
        return Err(Refusal::Replayed);
    }
    if said.timestamp < peer.greatest {
        // Its clock may have been set back, or this is a replay: shaking hands from here with
        // the real peer is right for both.
        peer.provoke(shared, at);
        return Err(Refusal::Old);
    }
    let is_soon = peer.answered_ns.is_some_and(|last_ns| at.now_ns < last_ns + ANSWER_NS);
    if is_soon && said.timestamp <= peer.seen {
        return Err(Refusal::TooSoon);
    }
    let psk = shared.settings.psks.chosen(&said.psks).ok_or(Refusal::Psk)?;
    let cipher = shared.settings.ciphers.choose(said.ciphers, said.cipher);
    let cipher = cipher.ok_or(Refusal::Cipher)?;
    let spi_base = shared.spis.take(at.now_ns, at.random);
    let payload = response(shared, spi_base, cipher).emit();
    let mut draft = ResponseDraft::new(u32::from_be_bytes(crate::random(at.random)), sender);
    let Ok(split) = noise.write(&psk, &payload, draft.noise()) else {
        shared.spis.release(spi_base, at.now_ns);
        return Err(Refusal::Noise);
    };
    let message = draft.finish(|before| peer.mac1.of(&[before])).to_vec();
    peer.answered_ns = Some(at.now_ns);
    peer.seen = peer.seen.max(said.timestamp);
    let id = SetId(spi_base);
    shared.outputs.push_back(Output::Install(Box::new(SaSet {
        peer: peer.key,
        id,
        send_spi_base: said.spi_base,
        send_lanes: shared.settings.lanes,
        receive_lanes: said.lanes,
        cipher,
        send_key: split.from_responder,
        receive_key: split.from_initiator,
        claim: said.claim,
        is_initiator: false,
    })));
    // After the keys, so that what confirms them can be opened.
    shared.outputs.push_back(Output::Send { to: from, message });
    let set = Set {
        id,
        end_ns: at.now_ns + END_NS,
        rekey_ns: at.now_ns + rekey_age(REKEY_RESPONDER_NS, at.random),
        from,
        timestamp: said.timestamp,
        claim: said.claim,
        instance: said.instance,
        confirm: None,
    };
    peer.answered(set, shared, at.now_ns);
    Ok(())
}

fn response(shared: &Shared, spi_base: u32, cipher: Cipher) -> Payload {
    let settings = &shared.settings;
    Payload {
        timestamp: Timestamp::default(),
        instance: settings.instance,
        spi_base,
        lanes: settings.lanes,
        ciphers: settings.ciphers.mask(),
        cipher: cipher as u8,
        claim: settings.claim,
        psks: Default::default(),
    }
}
