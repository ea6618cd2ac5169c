//! What the control plane asks a worker to send: probes, a few at a time.
//!
//! Path of a packet: `engine` → **`errands`** → `io::outbound`, which sends them as any datagram,
//! by its own sockets: a path is known by those.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tunneld_core::probe::Probe;

/// Most that wait for a worker; more are as if lost.
const CAPACITY: usize = 48;

/// What one worker is to send.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    waiting: Mutex<Vec<Probe>>,
    any: AtomicBool,
}

impl Errands {
    /// Adds a probe. Returns whether there was room.
    pub(crate) fn add(&self, probe: Probe) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == CAPACITY {
            return false;
        }
        waiting.push(probe);
        self.any.store(true, Ordering::Release);
        true
    }

    /// Returns whether something waits.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes out all that waits.
    pub(crate) fn take(&self) -> Vec<Probe> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *waiting)
    }
}
