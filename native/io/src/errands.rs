//! What others ask a worker to send: probes of the control plane, and packets that waited for keys.
//!
//! Path of a packet: `engine` | `keying` → **`errands`** → `io::outbound`, which sends them as any
//! datagram, by its own sockets: a path is known by those, and an SA has one worker that seals by it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tunneld_core::probe::Probe;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;

/// Most probes that wait for a worker; more are as if lost.
const CAPACITY: usize = 48;

/// A packet as the device handed it over, which waited for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) vnet: VnetHeader,
    pub(crate) bytes: Box<[u8]>,
}

/// What becomes of a packet that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// There are keys: it goes the way it would have gone.
    Goes,
    /// There will be none: it is dropped, and its sender told.
    IsDropped,
}

/// What one worker is to do, in the order it came up.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) probes: Vec<Probe>,
    /// Bounded by what may wait for keys.
    pub(crate) packets: Vec<(Fate, Packet)>,
}

/// What one worker is to send.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    pending: Mutex<Pending>,
    any: AtomicBool,
}

impl Errands {
    /// Adds a probe. Returns whether there was room.
    pub(crate) fn add(&self, probe: Probe) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.probes.len() == CAPACITY {
            return false;
        }
        pending.probes.push(probe);
        self.any.store(true, Ordering::Release);
        true
    }

    /// Adds packets behind those that are there.
    pub(crate) fn add_packets(&self, packets: impl IntoIterator<Item = (Fate, Packet)>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.packets.extend(packets);
        self.any.store(true, Ordering::Release);
    }

    /// Returns whether something waits.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Takes out all that waits.
    pub(crate) fn take(&self) -> Pending {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.any.store(false, Ordering::Release);
        std::mem::take(&mut *pending)
    }
}
