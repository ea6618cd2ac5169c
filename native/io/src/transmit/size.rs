//! Datagrams that the underlay refuses for their size.

use std::sync::Arc;

use tunneld_core::adjacency::OuterDf;
use tunneld_core::batch::Purpose;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::outbound::Refused;
use tunneld_core::path_mtu::LEAST_BELIEVED;

use super::{Load, Transmitter, Way, outlet, reason_of};
use crate::clock;
use crate::event::Event;
use crate::path_mtu::{Asked, Discovery};

impl Transmitter<'_, '_> {
    /// Deals with a datagram that the underlay refused for its size: learns and reports what would
    /// fit, then sends it in fragments where IP allows that, or has its sender told. Of a word that
    /// is more likely forged than true nobody is told, who would keep to it for minutes: the
    /// datagram goes whole, until a probe has spoken.
    #[cold]
    pub(super) fn refused_for_size(&mut self, load: Load<'_>, way: Way, place: (usize, usize)) {
        let Load { outbound, fib, queue, number, exit } = load;
        let train = &queue.trains()[place.0];
        if train.passage.purpose == Purpose::Probe {
            return;
        }
        let Self { sender, sockets, asides, path_mtus, .. } = self;
        let Some(outlet) = outlet(sockets, asides.of(exit), load, way, place.0) else { return };
        let which = place.1..place.1 + 1;
        let now_ns = clock::now_ns();
        let path_mtu_bytes = match path_mtus.recent(&train.endpoint, now_ns) {
            Some(known) => known,
            None => {
                let is_ipv4 = train.endpoint.is_ipv4();
                let discovery = Discovery { socket: outlet.socket, is_ipv4 };
                match discovery.ask(|| sender.send_datagrams(outlet, queue, place, 1)) {
                    Asked::Went => return outbound.sent(fib, train, &which, now_ns),
                    Asked::Otherwise(errno) => return outbound.refused(reason_of(errno), 1),
                    Asked::Refused(path_mtu_bytes) => {
                        if path_mtus.learn(train.endpoint, path_mtu_bytes, now_ns) {
                            let adjacency = Arc::clone(&fib.adjacency(train.adjacency).name);
                            let size_bytes = outbound.batch().inner_len(train, &which);
                            let event = Event::PathMtu { adjacency, size_bytes, path_mtu_bytes };
                            self.surroundings.events.push(event);
                        }
                        path_mtu_bytes
                    }
                }
            }
        };
        if outbound.may_fragment(fib, number, place) {
            match sender.send_once_as(OuterDf::Clear, outlet, queue, place) {
                Ok(_) => outbound.sent(fib, train, &which, now_ns),
                Err(errno) => outbound.refused(reason_of(errno), 1),
            }
            return;
        }
        let is_doubtful = path_mtu_bytes.is_some_and(|bytes| bytes < LEAST_BELIEVED);
        if is_doubtful && sender.send_once_as(OuterDf::Probed, outlet, queue, place).is_ok() {
            return outbound.sent(fib, train, &which, now_ns);
        }
        outbound.refused(DropReason::TooBigForUnderlay, 1);
        if let Some(path_mtu_bytes) = path_mtu_bytes {
            if self.too_big.len() < self.too_big.capacity() {
                self.too_big.push(Refused { queue: number, place, path_mtu_bytes });
            }
        }
    }
}
