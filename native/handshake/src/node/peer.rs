//! One peer: the handshake under way with it, its SA sets, its timers.
//!
//! Everything a handshake says takes effect at confirmation. For the initiator that is the
//! response, which nobody but the peer can make; for the responder it is the first authentic
//! packet, since an initiation can be made by whoever stole the responder's own key.

use std::net::SocketAddr;

use crate::kdf::MacKey;
use crate::key::PublicKey;
use crate::mac::mac1_key;
use crate::payload::{Claim, Timestamp};

use super::initiate::Pending;
use super::shared::Shared;
use super::timers::*;
use super::waiting::Waiting;
use super::{Moment, Output, Record, SetId, Wait};

/// A set as the state machine needs it: without keys.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) id: SetId,
    pub(super) end_ns: u64,
    pub(super) rekey_ns: u64,
    /// Where the other side's message came from.
    pub(super) from: SocketAddr,
    /// Of the initiation that made it; the own one's is no matter, and zero.
    pub(super) timestamp: Timestamp,
    pub(super) claim: Claim,
    pub(super) instance: [u8; 8],
    /// When the next dummy is due that tells the responder of this set, and how many went.
    pub(super) confirm: Option<(u64, usize)>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: PublicKey,
    /// Of messages to this peer.
    pub(super) mac1: MacKey,
    pub(super) record: Record,
    /// Where a confirmed handshake came from, if that was elsewhere than the record says.
    pub(super) learned: Option<SocketAddr>,
    pub(super) pending: Option<Pending>,
    /// The one to seal under first, then as they were confirmed.
    pub(super) confirmed: Vec<Set>,
    /// By the time of their initiations, the latest first.
    pub(super) unconfirmed: Vec<Set>,
    /// When there was a confirmed set last.
    pub(super) had_set_ns: Option<u64>,
    pub(super) instance: Option<[u8; 8]>,
    /// Of confirmed handshakes.
    pub(super) greatest: Timestamp,
    /// Of handshakes answered.
    pub(super) seen: Timestamp,
    pub(super) answered_ns: Option<u64>,
    pub(super) provoked_ns: Option<u64>,
    pub(super) waiting: Waiting,
    pub(super) quiet_ns: Option<u64>,
    pub(super) alive_ns: Option<u64>,
    pub(super) keepalive_ns: Option<u64>,
    pub(super) renew_ns: Option<u64>,
    /// The entry in the list of deadlines.
    pub(super) scheduled_ns: Option<u64>,
}

impl Peer {
    pub(super) fn new(key: PublicKey) -> Self {
        Self {
            key,
            mac1: mac1_key(&key),
            record: Record::default(),
            learned: None,
            pending: None,
            confirmed: Vec::new(),
            unconfirmed: Vec::new(),
            had_set_ns: None,
            instance: None,
            greatest: Timestamp::default(),
            seen: Timestamp::default(),
            answered_ns: None,
            provoked_ns: None,
            waiting: Waiting::default(),
            quiet_ns: None,
            alive_ns: None,
            keepalive_ns: None,
            renew_ns: None,
            scheduled_ns: None,
        }
    }

    pub(super) fn sealing(&self) -> Option<SetId> {
        self.confirmed.first().map(|set| set.id)
    }

    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.learned.or(self.record.endpoint)
    }

    pub(super) fn set_record(&mut self, record: Record, shared: &mut Shared, at: &mut Moment<'_>) {
        if record.endpoint != self.record.endpoint {
            self.learned = None;
        }
        let is_news = record.instance != self.record.instance;
        self.record = record;
        let is_other = record.instance.is_some() && record.instance != self.instance;
        let had_lately = !self.confirmed.is_empty()
            || self.had_set_ns.is_some_and(|had_ns| at.now_ns < had_ns + END_NS);
        if is_news && is_other && had_lately {
            self.initiate(shared, at);
        }
    }

    pub(super) fn leave(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        self.end_all(shared, at.now_ns);
        self.drop_pending(shared, at.now_ns);
        self.give_up(shared);
    }

    pub(super) fn renew_soon(&mut self, at: &mut Moment<'_>) {
        if !self.confirmed.is_empty() {
            self.renew_ns = Some(at.now_ns + below(SPREAD_NS, at.random));
        }
    }

    // What data threads saw.

    pub(super) fn wants(&mut self, bytes: usize, shared: &mut Shared, at: &mut Moment<'_>) -> Wait {
        if !self.confirmed.is_empty() {
            return Wait::Go;
        }
        if self.endpoint().is_none() {
            return Wait::Refused;
        }
        let placed = self.waiting.push(bytes, &mut shared.waiting_bytes);
        self.initiate(shared, at);
        placed.map_or(Wait::Refused, |dropped| Wait::Held { dropped })
    }

    pub(super) fn sent(&mut self, set: SetId, shared: &mut Shared, at: &mut Moment<'_>) {
        self.quiet_ns.get_or_insert_with(|| at.now_ns + about(QUIET_NS, at.random));
        self.spoke(shared, at);
        let sealing = self.confirmed.first().filter(|sealing| sealing.id == set);
        if sealing.is_some_and(|sealing| at.now_ns >= sealing.rekey_ns) {
            self.initiate(shared, at);
        }
    }

    pub(super) fn heard(
        &mut self,
        set: SetId,
        data: bool,
        shared: &mut Shared,
        at: &mut Moment<'_>,
    ) {
        self.quiet_ns = None;
        if let Some(place) = self.unconfirmed.iter().position(|known| known.id == set) {
            let set = self.unconfirmed.remove(place);
            self.confirm(set, shared, at);
        } else if let Some(known) = self.confirmed.iter_mut().find(|known| known.id == set) {
            known.confirm = None;
        }
        if data && self.alive_ns.is_none() {
            self.alive_ns = Some(at.now_ns + about(ALIVE_NS, at.random));
        }
    }

    /// Something authentic leaves: nobody needs to hear of us by a dummy for a while.
    fn spoke(&mut self, shared: &Shared, at: &mut Moment<'_>) {
        self.alive_ns = None;
        let keepalive_ns = shared.settings.keepalive_ns;
        self.keepalive_ns = keepalive_ns.map(|every_ns| at.now_ns + about(every_ns, at.random));
    }

    fn dummy(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        if let Some(set) = self.sealing() {
            shared.outputs.push_back(Output::Dummy { peer: self.key, set });
            self.spoke(shared, at);
        }
    }

    // Sets.

    /// Returns whether an answer to the initiation of this time waits to be proved.
    pub(super) fn has_answered(&self, timestamp: Timestamp) -> bool {
        self.unconfirmed.iter().any(|set| set.timestamp == timestamp)
    }

    /// Keeps an answer until somebody proves it. The one to the earliest initiation goes, so that
    /// replays of what was never confirmed push out no answer to the real peer.
    pub(super) fn answered(&mut self, set: Set, shared: &mut Shared, now_ns: u64) {
        shared.sets.insert(set.id, self.key);
        self.unconfirmed.push(set);
        self.unconfirmed.sort_by_key(|set| std::cmp::Reverse(set.timestamp));
        while self.unconfirmed.len() > MOST_UNCONFIRMED {
            if let Some(earliest) = self.unconfirmed.pop() {
                self.end(&earliest, shared, now_ns);
            }
        }
    }

    pub(super) fn confirm(&mut self, set: Set, shared: &mut Shared, at: &mut Moment<'_>) {
        // One set overtaken by a newer one of the same initiator stays behind it: that one may
        // have restarted since, and the keys of this be gone there.
        let is_answer = set.timestamp != Timestamp::default();
        let is_overtaken = is_answer && set.timestamp < self.greatest;
        if is_answer {
            self.greatest = self.greatest.max(set.timestamp);
        }
        if !is_overtaken {
            let is_elsewhere = self.record.endpoint != Some(set.from);
            self.learned = is_elsewhere.then_some(set.from);
            self.instance = Some(set.instance);
        }
        let (id, claim, instance, from) = (set.id, set.claim, set.instance, set.from);
        let place = usize::from(is_overtaken).min(self.confirmed.len());
        self.confirmed.insert(place, set);
        while self.confirmed.len() > MOST_CONFIRMED {
            if let Some(oldest) = self.confirmed.pop() {
                self.end(&oldest, shared, at.now_ns);
            }
        }
        let confirmed = Output::Confirmed {
            peer: self.key,
            set: id,
            sealing: self.sealing().unwrap_or(id),
            endpoint: self.endpoint().unwrap_or(from),
            claim,
            instance,
        };
        shared.outputs.push_back(confirmed);
        self.quiet_ns = None;
        let packets = self.waiting.clear(&mut shared.waiting_bytes);
        if packets > 0 {
            shared.outputs.push_back(Output::Release { peer: self.key, packets });
        } else {
            self.dummy(shared, at);
        }
    }

    fn end(&self, set: &Set, shared: &mut Shared, now_ns: u64) {
        shared.sets.remove(&set.id);
        shared.spis.release(set.id.0, now_ns);
        let (peer, set, sealing) = (self.key, set.id, self.sealing());
        shared.outputs.push_back(Output::End { peer, set, sealing });
    }

    pub(super) fn end_all(&mut self, shared: &mut Shared, now_ns: u64) {
        self.end_until(u64::MAX, shared, now_ns);
    }

    /// Ends the sets whose time is over at `until_ns`.
    fn end_until(&mut self, until_ns: u64, shared: &mut Shared, now_ns: u64) {
        if !self.confirmed.is_empty() {
            self.had_set_ns = Some(now_ns);
        }
        let is_over = |set: &Set| set.end_ns <= until_ns;
        let (mut over, live): (Vec<_>, _) =
            std::mem::take(&mut self.confirmed).into_iter().partition(is_over);
        self.confirmed = live;
        let (more, live): (Vec<_>, _) =
            std::mem::take(&mut self.unconfirmed).into_iter().partition(is_over);
        self.unconfirmed = live;
        over.extend(more);
        over.iter().for_each(|set| self.end(set, shared, now_ns));
        if self.confirmed.is_empty() {
            (self.quiet_ns, self.alive_ns, self.keepalive_ns) = (None, None, None);
        }
    }

    // Time.

    pub(super) fn due_ns(&self) -> Option<u64> {
        let sets = self.confirmed.iter().chain(&self.unconfirmed);
        let sets = sets.flat_map(|set| [Some(set.end_ns), set.confirm.map(|(due_ns, _)| due_ns)]);
        let pending = self.pending.as_ref().map(|pending| pending.repeat_ns);
        let timers = [pending, self.quiet_ns, self.alive_ns, self.keepalive_ns, self.renew_ns];
        sets.chain(timers).flatten().min()
    }

    pub(super) fn tick(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        let now_ns = at.now_ns;
        let is_due = |timer: &Option<u64>| timer.is_some_and(|due_ns| now_ns >= due_ns);
        self.end_until(now_ns, shared, now_ns);
        if self.pending.as_ref().is_some_and(|pending| now_ns >= pending.repeat_ns) {
            self.repeat(shared, at);
        }
        if self.quiet_ns.take_if(|due_ns| now_ns >= *due_ns).is_some() {
            self.initiate(shared, at);
        }
        if self.renew_ns.take_if(|due_ns| now_ns >= *due_ns).is_some() {
            self.initiate(shared, at);
        }
        if is_due(&self.alive_ns) || is_due(&self.keepalive_ns) {
            (self.alive_ns, self.keepalive_ns) = (None, None);
            self.dummy(shared, at);
        }
        self.confirm_again(shared, at);
    }

    /// Sends dummies under sets that this side made and has heard nothing under.
    fn confirm_again(&mut self, shared: &mut Shared, at: &mut Moment<'_>) {
        for set in &mut self.confirmed {
            let Some((due_ns, went)) = set.confirm else { continue };
            if at.now_ns >= due_ns {
                shared.outputs.push_back(Output::Dummy { peer: self.key, set: set.id });
                let next = CONFIRM_NS.get(went + 1);
                set.confirm =
                    next.map(|wait_ns| (at.now_ns + about(*wait_ns, at.random), went + 1));
            }
        }
    }
}
