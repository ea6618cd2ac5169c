//! One data thread: serves one direction of a worker, or both in turn.
//!
//! Path of a packet: `tun` | `mmsg` → **`data_thread`** (→ `outbound` | `inbound`) → `mmsg` | `tun`.
//! What one direction does is often what the other has to do next: an acknowledgment follows a
//! write to the device, and more data follows an acknowledgment. A thread that serves both finds
//! it without having been woken.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;

use crate::descriptor::Descriptors;
use crate::duty::{Found, Meanwhile};
use crate::errands::Errands;
use crate::event::Events;
use crate::inbound::InboundDuty;
use crate::offloads::Offloads;
use crate::outbound::OutboundDuty;
use crate::publish::FibReader;
use crate::pulse::{Mode, Pulse};
use crate::surroundings::Surroundings;

/// What a thread works with.
pub(crate) struct DataThread {
    pub(crate) descriptors: Descriptors,
    pub(crate) outbound: Option<(Outbound, FibReader)>,
    pub(crate) inbound: Option<(Inbound, FibReader)>,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) events: Arc<Events>,
    pub(crate) offloads: Arc<Offloads>,
    pub(crate) errands: Arc<Errands>,
}

impl DataThread {
    /// Runs until it is told to stop, or until the device or a socket fails for good.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let Self { descriptors, outbound, inbound, pulse, events, offloads, errands } = self;
        let surroundings = Surroundings {
            descriptors: &descriptors,
            pulse: &pulse,
            events: &events,
            offloads: &offloads,
            errands: &errands,
        };
        let mut outbound = outbound.map(|(core, fibs)| OutboundDuty::new(surroundings, core, fibs));
        let mut inbound = inbound.map(|(core, fibs)| InboundDuty::new(surroundings, core, fibs));

        let mut waited: Vec<BorrowedFd<'_>> = Vec::new();
        waited.extend(inbound.iter().flat_map(InboundDuty::sockets));
        let sockets = waited.len();
        waited.extend(outbound.iter().map(OutboundDuty::device));

        let sends = outbound.is_some();
        while let Some(ready) = pulse.wait_readable(&waited, || sends && errands.any())? {
            let (of_sockets, of_device) = ready.split_at(sockets);
            inbound.iter_mut().for_each(|inbound| inbound.note(of_sockets));
            let mut look_out = !of_device[0].is_empty() || errands.any();
            let mut look_in = true;
            while (look_out || look_in) && pulse.mode() == Mode::Run {
                let sent = match &mut outbound {
                    Some(outbound) if look_out => {
                        outbound.pass(inbound.as_mut().map(|duty| duty as &mut dyn Meanwhile))?
                    }
                    _ => Found::Nothing,
                };
                let came = match &mut inbound {
                    Some(inbound) if look_in => inbound.pass()?,
                    _ => Found::Nothing,
                };
                look_out = sent == Found::Part || came != Found::Nothing;
                look_in = came == Found::Part || sent != Found::Nothing;
                if sent != Found::Nothing {
                    inbound.iter_mut().for_each(InboundDuty::note_all);
                }
            }
        }
        Ok(())
    }
}
