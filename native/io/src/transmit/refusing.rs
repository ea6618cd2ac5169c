//! Paths on which the kernel refuses to cut trains, as one thread knows them.

use rustix::io::Errno;
use tunneld_core::batch::Train;
use tunneld_core::fib::Fib;

use super::Transmitter;
use crate::clock;

impl Transmitter<'_, '_> {
    /// Notes that a path refuses trains, and says so if it is the first one.
    pub(super) fn refuses_trains(&mut self, fib: &Fib, train: &Train, errno: Errno) {
        let before = self.refusals.count();
        self.refusals.refused(train.endpoint, clock::now_ns());
        let name = &fib.adjacency(train.adjacency).name;
        let change = (before, self.refusals.count());
        self.surroundings.offloads.paths_refuse(change, name, errno, self.surroundings.events);
    }

    /// Notes that the paths of some trains take them.
    pub(super) fn went_whole(&mut self, trains: &[Train]) {
        if self.refusals.is_empty() {
            return;
        }
        let before = self.refusals.count();
        for train in trains.iter().filter(|train| train.count > 1) {
            self.refusals.accepted(&train.endpoint);
        }
        self.fewer_refuse(before);
    }

    /// Forgets refusals that are out of use, or that the switch has ended.
    pub(super) fn review_refusals(&mut self) {
        let before = self.refusals.count();
        self.refusals.review(self.surroundings.offloads.switches(), clock::now_ns());
        self.fewer_refuse(before);
    }

    fn fewer_refuse(&self, before: usize) {
        let change = (before, self.refusals.count());
        self.surroundings.offloads.paths_accept(change, self.surroundings.events);
    }
}
