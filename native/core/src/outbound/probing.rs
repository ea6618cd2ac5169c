//! Probes of a path's MTU on their way to a peer.
//!
//! Path of a packet: `io` → **`outbound::probing`** → `batch` → `io` → underlay.

use tunneld_wire::ip::Version;

use super::{Outbound, To, View};
use crate::adjacency::{Adjacency, OuterDf};
use crate::adjacency_id::AdjacencyId;
use crate::batch::{Passage, Purpose};
use crate::encapsulation::{Around, Encapsulate, Via, by_way};
use crate::fib::{Fib, Target};
use crate::probe::Probe;

impl Outbound {
    /// Puts a probe into the batch, once for each path to the peer. What has no room or leads to no
    /// peer is as if lost.
    #[cold]
    pub fn probe(&mut self, fib: &Fib, probe: &Probe, now_ns: u64) {
        let Some(settings) = fib.settings() else { return };
        let Some(Target::Adjacency(id)) = fib.lookup(probe.destination) else { return };
        let adjacency = fib.adjacency(id);
        let view = View { fib, settings, now_ns };
        by_way!(&adjacency.way, way => self.emit_probe(way, view, (id, adjacency), probe));
    }

    fn emit_probe<E: Encapsulate>(
        &mut self,
        way: &E,
        view: View<'_>,
        (id, adjacency): (AdjacencyId, &Adjacency),
        probe: &Probe,
    ) {
        let inner_len = usize::from(probe.size_bytes);
        let passage = Passage { df: OuterDf::Probed, purpose: Purpose::Probe };
        let version = if probe.destination.is_ipv4() { Version::V4 } else { Version::V6 };
        let paths = if E::VIA == Via::Esp { 1 } else { self.batch.paths() };
        let begun = way.begin(self.worker, version, paths, view.now_ns);
        let Ok(mut around) = begun else { return };
        let moved = around.endpoint();
        let endpoint = moved.unwrap_or(adjacency.parameters.endpoint);
        for path in 0..paths {
            let queue = match moved {
                None => self.batch.queue_for(&endpoint, path),
                Some(endpoint) => {
                    let by_port = self.is_by_port(&endpoint, &adjacency.parameters.endpoint);
                    self.batch.esp_queue_for(id, &endpoint, by_port)
                }
            };
            let number = (self.worker * paths + path) as u16;
            let Some(slot) = self.batch.slot(queue, E::HEAD + inner_len + E::TAIL) else { return };
            let inner = &mut slot[E::HEAD..E::HEAD + inner_len];
            if !probe.emit(self.mark, view.settings, number, inner) {
                return;
            }
            let Ok(len) = around.finish(slot) else { return };
            self.push(To { id, endpoint, queue, passage }, inner_len, len);
        }
    }
}
