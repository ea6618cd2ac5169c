//! How far a queue of a batch has been sent.

use rustix::io::Errno;
use tunneld_core::batch::Train;

/// How far a queue has been sent.
#[derive(Default)]
pub(super) struct Place {
    /// The train that is next.
    pub(super) train: usize,
    /// How many of its datagrams are done.
    pub(super) done: usize,
    /// That it was refused in one piece, and what became of its datagrams one by one.
    pub(super) trial: Option<Trial>,
    /// The train that was last sent another way than before.
    pub(super) rerouted: Option<usize>,
    /// The train that goes by the trickle.
    pub(super) trickle: Option<usize>,
    /// How often the kernel had no memory for this queue.
    pub(super) tries: usize,
}

pub(super) struct Trial {
    pub(super) errno: Errno,
    pub(super) sent: usize,
    pub(super) too_big: usize,
}

impl Place {
    /// Goes on by some datagrams.
    pub(super) fn advance(&mut self, trains: &[Train], mut datagrams: usize) {
        while datagrams > 0 {
            let step = datagrams.min(trains[self.train].count - self.done);
            self.done += step;
            datagrams -= step;
            if self.done == trains[self.train].count {
                (self.train, self.done) = (self.train + 1, 0);
            }
        }
    }

    /// Returns whether the train must go on datagram by datagram.
    pub(super) const fn is_within(&self) -> bool {
        self.done > 0 || self.trial.is_some()
    }
}
