//! The SAs of one handshake that seal.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tunneld_esp::packet::{Content, HEAD, TAIL};
use tunneld_esp::sa::{Direction, OutboundSa};
use tunneld_esp::spi::SpiBase;

use super::Claim;
use crate::drop_reason::DropReason;

/// The SAs that packets for a peer are sealed by. Made once for a handshake: a second one of the
/// same keys would use the same numbers.
pub struct SealingSet {
    id: SpiBase,
    claim: Claim,
    direction: Direction,
    /// By lane; `None`: the provider refused its key. A lane is derived once, whatever comes.
    lanes: Box<[OnceLock<Option<OutboundSa>>]>,
    sent: AtomicBool,
}

impl SealingSet {
    /// Room that a dummy needs, in bytes.
    pub const DUMMY_ROOM: usize = HEAD + TAIL;

    /// Returns the set of the handshake that is named `id` here, with a peer that holds `claim` by
    /// its own word.
    pub fn new(id: SpiBase, claim: Claim, direction: Direction) -> Self {
        let lanes = (0..direction.lanes).map(|_| OnceLock::new()).collect();
        Self { id, claim, direction, lanes, sent: AtomicBool::new(false) }
    }

    /// Returns what names its handshake here: the SPI base of the other direction.
    pub const fn id(&self) -> SpiBase {
        self.id
    }

    /// Returns what the peer holds.
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Returns the SA of a lane; `None` if there is no such lane, or its key was refused.
    #[inline]
    pub(crate) fn lane(&self, lane: usize) -> Option<&OutboundSa> {
        let cell = self.lanes.get(lane)?;
        cell.get_or_init(|| self.direction.outbound(lane as u8).ok().flatten()).as_ref()
    }

    /// Takes note that packets were sealed by it.
    #[inline]
    pub(crate) fn note_sent(&self) {
        // Mostly it is known: then the line stays in every worker's cache.
        if !self.sent.load(Ordering::Relaxed) {
            self.sent.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether packets of somebody were sealed by it since the last call.
    pub fn take_sent(&self) -> bool {
        self.sent.swap(false, Ordering::Relaxed)
    }

    /// Returns whether one of its SAs has used so many numbers that a new handshake is wanted.
    pub fn wants_rekey(&self) -> bool {
        let known = self.lanes.iter().filter_map(|lane| lane.get()?.as_ref());
        known.into_iter().any(OutboundSa::wants_rekey)
    }

    /// Writes a dummy of the first lane to `slot`, of [`DUMMY_ROOM`](Self::DUMMY_ROOM) bytes, and
    /// returns its length. It leaves as the first worker's datagrams do; any thread may call this.
    ///
    /// # Errors
    ///
    /// [`DropReason::SaEnded`], [`DropReason::SaExhausted`] or [`DropReason::SealingFailed`].
    pub fn seal_dummy(
        &self,
        now_ns: u64,
        slot: &mut [u8; Self::DUMMY_ROOM],
    ) -> Result<usize, DropReason> {
        let sa = self.lane(0).ok_or(DropReason::SealingFailed)?;
        let mut numbers = sa.reserve(1, now_ns)?;
        Ok(sa.seal(&mut numbers, Content::Dummy, slot)?)
    }
}

impl fmt::Debug for SealingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, direction, .. } = self;
        write!(f, "SealingSet({id:?}, by {:?})", direction.base)
    }
}
