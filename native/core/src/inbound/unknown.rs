//! Where ESP comes from that no SA here has: its sender may not know that this host has restarted.

use std::net::SocketAddr;

/// Addresses kept of one batch: the thread of the handshakes answers few of them at once.
const MOST: usize = 8;

/// Addresses, each once.
pub(super) struct Sources {
    all: [SocketAddr; MOST],
    used: usize,
}

impl Default for Sources {
    fn default() -> Self {
        Self { all: [SocketAddr::from(([0; 4], 0)); MOST], used: 0 }
    }
}

impl Sources {
    #[cold]
    pub(super) fn note(&mut self, source: SocketAddr) {
        if self.all().contains(&source) {
            return;
        }
        if let Some(place) = self.all.get_mut(self.used) {
            *place = source;
            self.used += 1;
        }
    }

    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.all[..self.used]
    }

    pub(super) const fn clear(&mut self) {
        self.used = 0;
    }
}
