//! The initiating side: an initiation, its repeats, and what its answer makes.

use std::net::SocketAddr;

use crate::cipher::Cipher;
use crate::kdf::is_equal;
use crate::message::{self, Cookie, INITIATION_LEN, InitiationDraft, Mac, Response};
use crate::noise::Initiator;
use crate::payload::{self, Payload, Timestamp};

use super::peer::{Peer, Set};
use super::shared::Shared;
use super::timers::*;
use super::{Moment, Output, Refusal, SaSet, SetId, ephemeral};

/// An initiation that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) noise: Initiator,
    pub(super) to: SocketAddr,
    pub(super) index: u32,
    pub(super) spi_base: u32,
    pub(super) message: Box<[u8; INITIATION_LEN]>,
    pub(super) mac1: Mac,
    /// The cookie of this handshake, and whether this message carries it.
    pub(super) cookie: Option<Mac>,
    pub(super) has_cookie: bool,
    pub(super) first_ns: u64,
    pub(super) give_up_ns: u64,
    pub(super) repeat_ns: u64,
    pub(super) repeats: usize,
}

impl Peer {
    /// Begins a handshake if none is under way.
    pub(super) fn initiate(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        if self.pending.is_none() {
            self.renew_ns = None;
            self.begin(None, shared, at);
        }
    }

    /// Begins one because of what anybody may have sent.
    pub(super) fn provoke(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        let is_early = self.provoked_ns.is_some_and(|last_ns| at.now_ns < last_ns + PROVOKED_NS);
        if self.pending.is_none() && !is_early && shared.provoked.take(at.now_ns) {
            self.provoked_ns = Some(at.now_ns);
            self.initiate(shared, at);
        }
    }

    /// Sends an initiation, the first one or the one after `last`. Each is a message of its own:
    /// with a new ephemeral key, timestamp and SPI base.
    fn begin(&mut self, last: Option<Pending>, shared: &mut Shared, at: &mut Moment<'_>) {
        let repeats = last.as_ref().map_or(0, |last| last.repeats + 1);
        let Some(to) = self.place(repeats) else {
            // It was known before: what waits would do so for ever.
            if last.is_some() {
                self.give_up(shared);
            }
            return;
        };
        let index = shared.index(at);
        let spi_base = shared.spis.take(at.now_ns, at.random);
        let settings = &shared.settings;
        let (instance, lanes, claim) = (settings.instance, settings.lanes, settings.claim);
        let (ciphers, psks) = (settings.ciphers, settings.psks.ids());
        let payload = Payload {
            timestamp: shared.timestamp(at.wall),
            instance,
            spi_base,
            lanes,
            ciphers: ciphers.mask(),
            cipher: ciphers.preferred() as u8,
            claim,
            psks,
        };
        let mut draft = InitiationDraft::new(index);
        let (start, place) = (shared.start(), draft.noise());
        let begun = Initiator::new(start, &self.key, ephemeral(at.random), &payload.emit(), place);
        let Ok(noise) = begun else {
            // A key of small order: nobody can hold it.
            shared.spis.release(spi_base, at.now_ns);
            self.give_up(shared);
            return;
        };
        let mut mac1 = Mac::default();
        let mut message = Box::new(draft.finish(|before| {
            mac1 = self.mac1.of(&[before]);
            mac1
        }));
        let cookie = last.as_ref().and_then(|last| last.cookie);
        if let Some(cookie) = &cookie {
            message::set_cookie(&mut message, cookie);
        }
        let first_ns = last.as_ref().map_or(at.now_ns, |last| last.first_ns);
        let give_up_ns =
            last.map_or_else(|| at.now_ns + about(GIVE_UP_NS, at.random), |last| last.give_up_ns);
        let wait_ns = REPEAT_NS[repeats.min(REPEAT_NS.len() - 1)];
        let repeat_ns = at.now_ns + about(wait_ns, at.random);
        shared.outputs.push_back(Output::Send { to, message: message.to_vec() });
        shared.pending.insert(index, self.key);
        self.pending = Some(Pending {
            noise,
            to,
            index,
            spi_base,
            message,
            mac1,
            cookie,
            has_cookie: false,
            first_ns,
            give_up_ns,
            repeat_ns,
            repeats,
        });
    }

    pub(super) fn drop_pending(&mut self, shared: &mut Shared, now_ns: u64) -> Option<Pending> {
        let pending = self.pending.take()?;
        shared.pending.remove(&pending.index);
        shared.spis.release(pending.spi_base, now_ns);
        Some(pending)
    }

    pub(super) fn give_up(&mut self, shared: &mut Shared) {
        let packets = self.waiting.clear(&mut shared.waiting_bytes);
        shared.outputs.push_back(Output::GaveUp { peer: self.key, packets });
    }

    /// Repeats the initiation, if it still serves anything.
    pub(super) fn repeat(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        let Some(last) = self.drop_pending(shared, at.now_ns) else { return };
        // The other side's handshake, begun meanwhile, has done.
        let is_done = self.confirmed.first().is_some_and(|set| set.end_ns > last.first_ns + END_NS);
        if is_done {
            return;
        }
        if at.now_ns >= last.give_up_ns {
            self.give_up(shared);
        } else {
            self.begin(Some(last), shared, at);
        }
    }

    pub(super) fn take_cookie(
        &mut self,
        cookie: &Cookie,
        shared: &mut Shared,
    ) -> Result<(), Refusal> {
        let pending = self.pending.as_mut().ok_or(Refusal::UnknownIndex)?;
        if pending.has_cookie || !is_equal(&cookie.mac1, &pending.mac1) {
            return Err(Refusal::UnknownIndex);
        }
        message::set_cookie(&mut pending.message, &cookie.cookie);
        pending.cookie = Some(cookie.cookie);
        // One answer to each message: else two nodes, or a forger, could have it sent for ever.
        pending.has_cookie = true;
        let (to, message) = (pending.to, pending.message.to_vec());
        shared.outputs.push_back(Output::Send { to, message });
        Ok(())
    }

    pub(super) fn finish(
        &mut self,
        response: &Response<'_>,
        from: SocketAddr,
        shared: &mut Shared,
        at: &mut Moment<'_>,
    ) -> Result<(), Refusal> {
        let pending = self.pending.as_mut().ok_or(Refusal::UnknownIndex)?;
        let mut read = [0; payload::LEN];
        let candidates = shared.settings.psks.candidates();
        let mut splits =
            candidates.iter().map(|psk| pending.noise.read(psk, response.noise(), &mut read).ok());
        let split = splits.find_map(|split| split).ok_or(Refusal::Noise)?;
        // From here on it is the peer that answers, and this handshake is over.
        let said = Payload::parse(&read).ok_or(Refusal::Payload)?;
        let cipher = Cipher::of(said.cipher).filter(|it| shared.settings.ciphers.takes(*it));
        let cipher = cipher.ok_or(Refusal::Cipher)?;
        let pending = self.pending.take().ok_or(Refusal::UnknownIndex)?;
        shared.pending.remove(&pending.index);
        let id = SetId(pending.spi_base);
        shared.outputs.push_back(Output::Install(Box::new(SaSet {
            peer: self.key,
            id,
            send_spi_base: said.spi_base,
            send_lanes: shared.settings.lanes,
            receive_lanes: said.lanes,
            cipher,
            send_key: split.from_initiator,
            receive_key: split.from_responder,
            claim: said.claim,
            is_initiator: true,
        })));
        shared.sets.insert(id, self.key);
        let set = Set {
            id,
            end_ns: at.now_ns + END_NS,
            rekey_ns: at.now_ns + rekey_age(REKEY_INITIATOR_NS, at.random),
            from,
            timestamp: Timestamp::default(),
            claim: said.claim,
            instance: said.instance,
            confirm: Some((at.now_ns + about(CONFIRM_NS[0], at.random), 0)),
        };
        self.confirm(set, shared, at);
        Ok(())
    }

    /// Returns where to try next. A place that was learned may be old: every second message goes
    /// to the record's, else two nodes that both moved would never meet again.
    fn place(&self, repeats: usize) -> Option<SocketAddr> {
        if repeats % 2 == 1 { self.record.endpoint.or(self.learned) } else { self.endpoint() }
    }
}
