//! The security association database: the peers that packets are sealed for, and the SA sets that
//! open what comes from them.
//!
//! Path of a key: handshake → `io` → **`sad`** → `encapsulation::esp`, on its way out and in.
//! A handshake gives two sets, one for each direction. The thread that shakes hands puts them here
//! and takes them out again; data threads look them up. An SA of a set, its lane, belongs to one
//! worker of its sender, and its keys are derived when that is first used.
//!
//! Locks: a worker takes its own cell of a [`Protected`] once a packet or super-packet, and the
//! thread of the handshakes only to put another set there. The table of sets is read where the SPI
//! of a datagram is not that of the one before. Keys are neither derived nor wiped under a lock that a
//! data thread waits for.
//!
//! Source: RFC 4301 §4.4.2.

mod claim;
mod opening;
mod sealing;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use tunneld_esp::spi::SpiBase;

pub use claim::Claim;
pub use opening::{Heard, Lane, OpeningSet};
pub use sealing::SealingSet;

/// A power of two, so that a handshake stops few of those that look up.
const SHARDS: usize = 16;

type Shard = RwLock<HashMap<SpiBase, Arc<OpeningSet>>>;

/// The database, shared by all workers and the thread of the handshakes.
pub struct Sad {
    workers: usize,
    /// How many peers there were.
    numbered: AtomicU64,
    peers: Mutex<HashMap<[u8; 32], Weak<Protected>>>,
    sets: [Shard; SHARDS],
}

impl Sad {
    /// Returns an empty database for that many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            numbered: AtomicU64::new(0),
            peers: Mutex::default(),
            sets: std::array::from_fn(|_| Shard::default()),
        }
    }

    /// Returns the peer with that public key. There is one as long as somebody holds it: an
    /// adjacency of a FIB, a set, a packet that waits, or the caller.
    pub fn peer(&self, key: [u8; 32]) -> Arc<Protected> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&key).and_then(Weak::upgrade) {
            return peer;
        }
        if peers.len() == peers.capacity() {
            peers.retain(|_, peer| peer.strong_count() > 0);
        }
        let before = self.numbered.fetch_add(1, Ordering::Relaxed);
        let number = NonZeroU64::MIN.saturating_add(before);
        let peer = Arc::new(Protected::new(key, number, self.workers));
        peers.insert(key, Arc::downgrade(&peer));
        peer
    }

    /// Opens what comes under `set` from now on.
    pub fn install(&self, set: OpeningSet) -> Arc<OpeningSet> {
        let set = Arc::new(set);
        let mut shard = self.shard(set.id()).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.insert(set.id(), Arc::clone(&set));
        // The keys of one that had this index are wiped, which takes a while.
        drop(shard);
        drop(old);
        set
    }

    /// Opens nothing under that set any more, from each worker's next batch on.
    pub fn remove(&self, id: SpiBase) {
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        let old = shard.remove(&id);
        drop(shard);
        drop(old);
    }

    /// Returns the set of that index.
    pub(crate) fn set(&self, id: SpiBase) -> Option<Arc<OpeningSet>> {
        let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&id).map(Arc::clone)
    }

    fn shard(&self, id: SpiBase) -> &Shard {
        // The lowest bits are those of the lane.
        &self.sets[(id.number() >> 6) as usize % SHARDS]
    }
}

impl fmt::Debug for Sad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sad").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// A peer that ESP is spoken with: who it is, and by what is sealed for it.
pub struct Protected {
    key: [u8; 32],
    number: NonZeroU64,
    /// By worker.
    cells: Box<[Cell]>,
    /// Until when packets without keys are dropped rather than left to wait.
    full_until_ns: AtomicU64,
}

/// What one worker seals by. No two are in one cache line.
#[derive(Default)]
#[repr(align(64))]
struct Cell(Mutex<Option<Sealing>>);

/// What is sealed by, and where it goes.
#[derive(Clone)]
pub(crate) struct Sealing {
    pub(crate) set: Arc<SealingSet>,
    pub(crate) endpoint: SocketAddr,
}

impl Protected {
    fn new(key: [u8; 32], number: NonZeroU64, workers: usize) -> Self {
        let cells = (0..workers).map(|_| Cell::default()).collect();
        Self { key, number, cells, full_until_ns: AtomicU64::new(0) }
    }

    /// Returns its public key.
    pub const fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Returns what it is known by inside this process. No other peer has or had that number.
    pub const fn number(&self) -> NonZeroU64 {
        self.number
    }

    /// Seals by `set` from now on, and sends to `endpoint`. When this returns, nothing is sealed by
    /// the set before any more.
    pub fn seal_by(&self, set: &Arc<SealingSet>, endpoint: SocketAddr) {
        // Dummies are sealed by the same lane from another thread: no worker waits while that derives
        // it.
        set.lane(0);
        self.put(Some(Sealing { set: Arc::clone(set), endpoint }));
    }

    /// Lets no more packets wait for its keys for a while: there is no room for more of this peer's,
    /// and what it is sent must not crowd out those of others.
    pub fn is_full_until(&self, until_ns: u64) {
        self.full_until_ns.store(until_ns, Ordering::Relaxed);
    }

    /// Returns whether a packet may be left to wait for its keys.
    pub(crate) fn takes_waiters(&self, now_ns: u64) -> bool {
        now_ns >= self.full_until_ns.load(Ordering::Relaxed)
    }

    /// Seals nothing from now on. When this returns, nothing is sealed any more.
    pub fn seal_by_none(&self) {
        self.put(None);
    }

    fn put(&self, sealing: Option<Sealing>) {
        for cell in &self.cells {
            let old = std::mem::replace(&mut *cell.lock(), sealing.clone());
            // If it was the last of its set, its keys are wiped: not under the lock.
            drop(old);
        }
    }

    /// Returns what `worker` seals by, which stays so while it is held.
    pub(crate) fn sealing(&self, worker: usize) -> Option<MutexGuard<'_, Option<Sealing>>> {
        self.cells.get(worker).map(Cell::lock)
    }
}

impl Cell {
    fn lock(&self) -> MutexGuard<'_, Option<Sealing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Protected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protected({})", self.number)
    }
}

#[cfg(test)]
mod tests;
