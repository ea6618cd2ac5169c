//! The SAs of one handshake that open.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tunneld_esp::sa::{Direction, InboundSa};
use tunneld_esp::spi::{Spi, SpiBase};

use super::{Claim, Protected};

/// What has come under a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Heard {
    /// Nothing authentic.
    Nothing,
    /// Dummies alone.
    Dummy,
    /// Packets of somebody.
    Data,
}

/// The SAs that open what comes from a peer.
pub struct OpeningSet {
    peer: Arc<Protected>,
    claim: Claim,
    direction: Direction,
    /// By lane; `None`: the provider refused its key.
    lanes: Box<[OnceLock<Option<Lane>>]>,
    heard: AtomicU8,
    is_confirmed: AtomicBool,
}

/// One SA, and its window.
pub struct Lane(Mutex<InboundSa>);

impl Lane {
    pub(crate) fn lock(&self) -> MutexGuard<'_, InboundSa> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpeningSet {
    /// Returns the set of a handshake with `peer`, which holds `claim` by its own word.
    pub fn new(peer: Arc<Protected>, claim: Claim, direction: Direction) -> Self {
        let lanes = (0..direction.lanes).map(|_| OnceLock::new()).collect();
        Self {
            peer,
            claim,
            direction,
            lanes,
            heard: AtomicU8::new(Heard::Nothing as u8),
            is_confirmed: AtomicBool::new(false),
        }
    }

    /// Returns what names it: the base of its SPIs.
    pub const fn id(&self) -> SpiBase {
        self.direction.base
    }

    /// Returns who speaks under it.
    pub const fn peer(&self) -> &Arc<Protected> {
        &self.peer
    }

    /// Returns what the peer holds: no inner packet comes from outside it.
    pub const fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Takes note that the other side has proved itself.
    pub fn confirm(&self) {
        self.is_confirmed.store(true, Ordering::Relaxed);
    }

    /// Returns whether the other side has proved itself.
    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Relaxed)
    }

    /// Returns what came under it since the last call.
    pub fn take_heard(&self) -> Heard {
        match self.heard.swap(Heard::Nothing as u8, Ordering::Relaxed) {
            0 => Heard::Nothing,
            1 => Heard::Dummy,
            _ => Heard::Data,
        }
    }

    /// Takes note of what came.
    #[inline]
    pub(crate) fn note_heard(&self, heard: Heard) {
        // Mostly it is known: then the line stays in every worker's cache.
        if self.heard.load(Ordering::Relaxed) < heard as u8 {
            self.heard.fetch_max(heard as u8, Ordering::Relaxed);
        }
    }

    /// Returns the SA with that SPI, of this set; `None` if there is no such lane, or its key was
    /// refused.
    pub(crate) fn lane(&self, spi: Spi) -> Option<&Lane> {
        let derive = || self.direction.inbound(spi).ok().flatten().map(Mutex::new).map(Lane);
        self.lanes.get(usize::from(spi.lane()))?.get_or_init(derive).as_ref()
    }
}

impl fmt::Debug for OpeningSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningSet({:?}, of {:?})", self.id(), self.peer)
    }
}
