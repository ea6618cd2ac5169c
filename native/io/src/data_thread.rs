//! One data thread: serves one direction of a worker, or both in turn.
//!
//! Path of a packet: `tun` | `mmsg` → **`data_thread`** (→ `outbound` | `inbound`) → `mmsg` | `tun`.
//!
//! Outbound, one pass:
//! 1. The thread waits until its TUN queue is readable or it has an errand (`pulse`, `errands`).
//! 2. It takes the FIB in force, for the whole pass (`publish`): the lock only where that is new.
//! 3. It reads packets, one system call each, until the queue is empty or the batch full
//!    (`outbound::fill`).
//! 4. `core::outbound` looks each up, cuts it and writes it, encapsulated, into the batch. What is
//!    left of a super-packet waits for steps 5 and 6, and goes into the batch after.
//! 5. The batch is sent with few system calls, each train by the way of its peer; what that does not
//!    take is dropped and counted (`transmit`, `aside`, `mmsg`).
//! 6. ICMP errors leave by the raw sockets (`raw_icmp`), and the batch is empty again. Packets that
//!    wait for keys are left for the thread that agrees those (`keying`), and come back as errands.
//!
//! Inbound, one pass for each socket that may have something:
//! 1. The thread waits until a socket is readable.
//! 2. It takes the FIB in force, for this batch.
//! 3. It receives datagrams, or trains of them, with one system call (`mmsg`).
//! 4. `core::inbound` splits trains, decapsulates and checks each packet, and joins what it may.
//! 5. Answers to probes become events; deliveries are written to the TUN queue, one system call each.
//!    Messages of the handshake are left for its thread (`keying`).
//! 6. ICMP errors leave by the raw sockets, and the batch is empty again.
//!
//! A thread of both duties passes in turn, outbound first, and waits only when neither has more:
//! 1. A duty that found a batch which may not be all has another pass.
//! 2. After a pass of one duty that found anything, the other has one: an acknowledgment follows a
//!    write to the device, and more data follows an acknowledgment, without a wake in between.
//! 3. While the underlay is full, the inbound duty goes on (`Meanwhile`).
//!
//! No packet that has keys, or needs none, crosses from one thread to another, so nothing on its way
//! is queued, and locked is only what ESP shares with its handshakes.

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
use crate::keying::Keying;
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
    pub(crate) keying: Option<Arc<Keying>>,
}

impl DataThread {
    /// Runs until it is told to stop, or until the device or a socket fails for good.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let Self { descriptors, outbound, inbound, pulse, events, offloads, errands, keying } =
            self;
        let surroundings = Surroundings {
            descriptors: &descriptors,
            pulse: &pulse,
            events: &events,
            offloads: &offloads,
            errands: &errands,
            keying: keying.as_deref(),
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
