//! Security associations: the lanes of a direction, each with its key and its numbers.
//!
//! Path of a packet: `core` → **`sa`** → `seal` or `open`.
//! An outbound SA is used by one worker; others may look how far it is. An inbound one is locked for
//! a run of packets. Time is passed in, in nanoseconds of a clock that also runs while the machine
//! sleeps.
//!
//! Source: RFC 4301 §4.4.2 (what an SA is), RFC 4303 §3.3.3 (numbers are never used twice).

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cipher::Cipher;
use crate::fault::Fault;
use crate::keys::{Key, KeyRefused, Secret};
use crate::open::{self, Opened};
use crate::packet::Content;
use crate::provider::Provider;
use crate::replay::Window;
use crate::seal::{self, Refusal};
use crate::sequence;
use crate::spi::{Spi, SpiBase};

/// How long after its handshake an SA seals and opens.
pub const LIFE_NS: u64 = 180 * 1_000_000_000;

/// One direction of what a handshake agreed. A lane's SA is derived when it is first used.
#[derive(Debug)]
pub struct Direction {
    /// What the keys are derived of.
    pub secret: Secret,
    /// Who seals and opens.
    pub provider: Provider,
    /// How.
    pub cipher: Cipher,
    /// What the receiver chose.
    pub base: SpiBase,
    /// How many lanes the sender has, 1 to [`LANES`](crate::spi::LANES).
    pub lanes: u8,
    /// When the handshake was.
    pub agreed_ns: u64,
}

impl Direction {
    /// Returns the SA that a worker seals `lane` with; `None` if there is no such lane. A second
    /// one of a lane must never be made: both would use the same numbers.
    ///
    /// # Errors
    ///
    /// [`KeyRefused`], by the provider.
    pub fn outbound(&self, lane: u8) -> Result<Option<OutboundSa>, KeyRefused> {
        let Some(spi) = self.base.lane(lane).filter(|_| lane < self.lanes) else { return Ok(None) };
        let key = self.secret.key(self.provider, self.cipher, spi)?;
        Ok(Some(OutboundSa::new(spi, key, self.agreed_ns)))
    }

    /// Returns the SA that opens what comes with `spi`; `None` if that is no lane of this
    /// direction.
    ///
    /// # Errors
    ///
    /// [`KeyRefused`], by the provider.
    pub fn inbound(&self, spi: Spi) -> Result<Option<InboundSa>, KeyRefused> {
        if spi.base() != self.base || spi.lane() >= self.lanes {
            return Ok(None);
        }
        let key = self.secret.key(self.provider, self.cipher, spi)?;
        Ok(Some(InboundSa::new(spi, key, self.agreed_ns)))
    }
}

/// An SA that seals.
pub struct OutboundSa {
    spi: Spi,
    key: Key,
    /// Atomic, so that no number is sealed twice even where two threads use the SA.
    next: AtomicU64,
    ends_at_ns: u64,
}

impl OutboundSa {
    /// Returns an SA agreed at `agreed_ns` under which nothing has been sealed yet.
    pub const fn new(spi: Spi, key: Key, agreed_ns: u64) -> Self {
        let ends_at_ns = agreed_ns.saturating_add(LIFE_NS);
        Self { spi, key, next: AtomicU64::new(1), ends_at_ns }
    }

    /// Reserves numbers for `count` packets, all or none. Those that are not used are skipped.
    ///
    /// # Errors
    ///
    /// [`Refusal::Ended`] or [`Refusal::Exhausted`].
    #[inline]
    pub fn reserve(&self, count: u64, now_ns: u64) -> Result<Numbers, Refusal> {
        if !self.is_alive(now_ns) {
            return Err(Refusal::Ended);
        }
        let after =
            |start: u64| start.checked_add(count).filter(|next| *next <= sequence::LAST + 1);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let start = taken.or(Err(Refusal::Exhausted))?;
        Ok(Numbers { spi: self.spi, left: start..start + count })
    }

    /// Seals `slot` under the next of `numbers`. Its bytes from [`HEAD`](crate::packet::HEAD) to
    /// `slot.len() -` [`TAIL`](crate::packet::TAIL) are the payload, none for a dummy. Returns the
    /// length of the packet in bytes.
    ///
    /// # Errors
    ///
    /// [`Refusal::Exhausted`] if all are used, or were reserved of another SA;
    /// [`Refusal::Provider`].
    ///
    /// # Panics
    ///
    /// Where `slot` has no room for `HEAD` and `TAIL`.
    #[inline]
    pub fn seal(
        &self,
        numbers: &mut Numbers,
        content: Content,
        slot: &mut [u8],
    ) -> Result<usize, Refusal> {
        if numbers.spi != self.spi {
            return Err(Refusal::Exhausted);
        }
        let number = numbers.left.next().ok_or(Refusal::Exhausted)?;
        seal::seal(&self.key, self.spi, number, content, slot)
    }

    /// Returns whether so many numbers are used that a new handshake is wanted.
    pub fn wants_rekey(&self) -> bool {
        self.used() >= sequence::WANTS_REKEY
    }

    /// Returns whether it may still be used. When not, its owner drops it, and its key is gone.
    pub const fn is_alive(&self, now_ns: u64) -> bool {
        now_ns < self.ends_at_ns
    }

    /// Returns its index at the receiver.
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// Returns how many numbers are used.
    pub fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed) - 1
    }
}

impl fmt::Debug for OutboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spi, key, ends_at_ns, .. } = self;
        let used = self.used();
        write!(f, "OutboundSa({spi:?}, {key:?}, {used} used, ends at {ends_at_ns} ns)")
    }
}

/// Sequence numbers of one SA, for one packet or super-packet. There is no copy of them: each is
/// used once.
#[derive(Debug)]
pub struct Numbers {
    spi: Spi,
    left: Range<u64>,
}

/// An SA that opens.
pub struct InboundSa {
    spi: Spi,
    key: Key,
    window: Window,
    ends_at_ns: u64,
}

impl InboundSa {
    /// Returns an SA agreed at `agreed_ns` under which nothing has come yet.
    pub const fn new(spi: Spi, key: Key, agreed_ns: u64) -> Self {
        let ends_at_ns = agreed_ns.saturating_add(LIFE_NS);
        Self { spi, key, window: Window::new(), ends_at_ns }
    }

    /// Opens `datagram` in place, and returns what is in it and where.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the first, in the order of their declaration.
    #[inline]
    pub fn open(&mut self, datagram: &mut [u8], now_ns: u64) -> Result<Opened, Fault> {
        open::open(&self.key, self.spi, self.is_alive(now_ns), &mut self.window, datagram)
    }

    /// Returns whether it may still be used. When not, its owner drops it, and its key is gone.
    pub const fn is_alive(&self, now_ns: u64) -> bool {
        now_ns < self.ends_at_ns
    }

    /// Returns its index here.
    pub const fn spi(&self) -> Spi {
        self.spi
    }
}

impl fmt::Debug for InboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spi, key, window, ends_at_ns } = self;
        let top = window.top();
        write!(f, "InboundSa({spi:?}, {key:?}, top {top}, ends at {ends_at_ns} ns)")
    }
}
