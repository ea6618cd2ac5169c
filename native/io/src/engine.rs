//! The data path as one handle: descriptors in, threads inside, plain values out.
//! What it does with keys is in [`keys`].
//!
//! Path of a lease: `py` → **`io::engine`** (→ `core::transaction` → `publish`) → threads.
//! Every call is short, except `stop`, which waits for the threads.

mod keys;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tunneld_core::counters::{AdjacencyCounters, AdjacencyReading, Direction, WorkerCounters};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Target;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::packet_sizes::PacketSizes;
use tunneld_core::probe::{Mark, Probe};
use tunneld_core::transaction::{Change, Tables};
use tunneld_handshake::key::PublicKey;

use crate::clock;
use crate::data_thread::DataThread;
use crate::descriptor::{Descriptors, Icmp, Underlay, UnderlaySockets, duplicate};
use crate::duty::Duty;
use crate::errands::Errands;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::keying::exits::Lane;
use crate::keying::{Encryption, Identities, Trusted};
use crate::marks;
use crate::meminfo;
use crate::offload::{Offload, State};
use crate::offloads::Offloads;
use crate::publish::Publisher;
use crate::pulse::Mode;
use crate::reading::{Heartbeat, Snapshot, WorkerReading};
use crate::thread_handle::ThreadHandle;
use keys::Keys;

enum Phase {
    New,
    Running(Vec<JoinHandle<()>>),
    Stopped,
}

struct Control {
    phase: Phase,
    tables: Tables,
    /// Who is trusted, with what its record says.
    identities: BTreeMap<PublicKey, Trusted>,
    publisher: Publisher,
    /// What the threads work on, to switch offloads by; none after the end.
    workers: Vec<Descriptors>,
}

/// What one worker counts in either direction, and what it is to send.
#[derive(Default)]
struct Tally {
    outbound: Arc<WorkerCounters>,
    inbound: Arc<WorkerCounters>,
    errands: Arc<Errands>,
}

/// A data path. Dropping it stops the threads.
pub struct Engine {
    /// Those of worker 0, then of worker 1, and so on.
    handles: Vec<ThreadHandle>,
    tallies: Vec<Tally>,
    events: Arc<Events>,
    offloads: Arc<Offloads>,
    /// Shared by all threads.
    sizes: Arc<PacketSizes>,
    /// Of probes.
    mark: Mark,
    /// `None`: nothing is sealed or opened.
    keys: Option<Keys>,
    control: Mutex<Control>,
}

impl Engine {
    /// Returns an engine over duplicates of the descriptors. Worker i takes TUN queue i and UDP
    /// sockets i; all share the raw sockets, by which ICMP errors leave in either family. With
    /// `split` it has a thread for each direction, else one for both. With `encryption` there is one
    /// more thread, which agrees keys, and each worker needs sockets for ESP.
    ///
    /// # Errors
    ///
    /// [`Error::Workers`], [`Error::NoSocket`], [`Error::Descriptor`], [`Error::Kernel`]; with
    /// encryption [`Error::EspSockets`], [`Error::Lanes`], [`Error::SelfTest`], [`Error::Psks`].
    pub fn new(
        tun: &[RawFd],
        underlay: &[UnderlaySockets],
        icmp: Option<RawFd>,
        icmp6: Option<RawFd>,
        split: bool,
        encryption: Option<Encryption>,
    ) -> Result<Self, Error> {
        let duties: &[Duty] = if split { &[Duty::Outbound, Duty::Inbound] } else { &[Duty::Both] };
        if tun.is_empty() || tun.len() != underlay.len() {
            return Err(Error::Workers { tun_queues: tun.len(), underlays: underlay.len() });
        }
        let mut workers = Vec::with_capacity(tun.len());
        let mut handles = Vec::with_capacity(duties.len() * tun.len());
        for (number, (tun, underlay)) in tun.iter().zip(underlay).enumerate() {
            if underlay.is_empty() {
                return Err(Error::NoSocket { worker: number });
            }
            if underlay.has_esp() != encryption.is_some() {
                let is_encrypted = encryption.is_some();
                return Err(Error::EspSockets { worker: number, is_encrypted });
            }
            workers.push(Descriptors {
                tun: duplicate("TUN", *tun)?,
                underlay: Underlay::duplicate(underlay)?,
                icmp: Icmp::duplicate(icmp, icmp6)?,
            });
            for duty in duties {
                handles.push(ThreadHandle::new(number, *duty)?);
            }
        }
        let offloads = Arc::new(Offloads::probe(&workers));
        marks::ask_for(&workers);
        let tallies: Vec<_> = tun.iter().map(|_| Tally::default()).collect();
        let (events, sizes) = (Arc::new(Events::new()?), Arc::default());
        let mut tables = Tables::new(workers.len());
        let mut keys = None;
        if let Some(encryption) = encryption {
            let made = Keys::new(encryption, &workers, lanes(&handles, &tallies), &events)?;
            tables = tables.sealing(made.sad());
            keys = Some(made);
        }
        let publisher = Publisher::new();
        let (phase, identities) = (Phase::New, BTreeMap::new());
        let control = Control { phase, tables, identities, publisher, workers };
        // Keyed anew by the system each time, so that the outcome is as good as drawn.
        let mark = Mark(RandomState::new().hash_one(0).to_be_bytes());
        let control = Mutex::new(control);
        Ok(Self { handles, tallies, events, offloads, sizes, mark, keys, control })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Phase`] the second time; [`Error::Kernel`] where there can be no more threads,
    /// which stops the engine.
    pub fn start(&self) -> Result<(), Error> {
        let mut control = self.control();
        match control.phase {
            Phase::New => {}
            Phase::Stopped => return Err(Error::Phase { call: "start", is: "stopped" }),
            Phase::Running(_) => return Err(Error::Phase { call: "start", is: "running" }),
        }
        let mut threads = Vec::with_capacity(self.handles.len());
        for handle in &self.handles {
            let Control { workers, publisher, .. } = &mut *control;
            match self.start_thread(handle, &mut workers[handle.worker], publisher) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.end(threads);
                    control.phase = Phase::Stopped;
                    control.workers.clear();
                    return Err(error);
                }
            }
        }
        if let Some(keys) = &self.keys {
            match keys.start(&self.events) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    self.end(threads);
                    control.phase = Phase::Stopped;
                    control.workers.clear();
                    return Err(error);
                }
            }
        }
        control.phase = Phase::Running(threads);
        Ok(())
    }

    fn start_thread(
        &self,
        handle: &ThreadHandle,
        descriptors: &mut Descriptors,
        publisher: &Publisher,
    ) -> Result<JoinHandle<()>, Error> {
        let (worker, tally) = (handle.worker, &self.tallies[handle.worker]);
        let mut own = descriptors.again()?;
        if handle.duty != Duty::Inbound {
            own.underlay.give_sidings(descriptors.underlay.take_sidings());
        }
        let outbound = || {
            let core = Outbound::new(worker, Arc::clone(&tally.outbound));
            let core = core.telling(Arc::clone(&self.sizes)).probing_as(self.mark);
            let core = core.spread_over(descriptors.underlay.paths());
            let core = match &self.keys {
                Some(keys) => core.leaving_in(keys.waiting(worker)),
                None => core,
            };
            (core, publisher.reader())
        };
        let inbound = || {
            let core = Inbound::new(worker, Arc::clone(&tally.inbound));
            let core = core.cutting_by(Arc::clone(&self.sizes)).probing_as(self.mark);
            let core = match &self.keys {
                Some(keys) => core.opening(keys.sad()),
                None => core,
            };
            (core, publisher.reader())
        };
        let thread = DataThread {
            descriptors: own,
            outbound: (handle.duty != Duty::Inbound).then(outbound),
            inbound: (handle.duty != Duty::Outbound).then(inbound),
            pulse: Arc::clone(&handle.pulse),
            events: Arc::clone(&self.events),
            offloads: Arc::clone(&self.offloads),
            errands: Arc::clone(&tally.errands),
            keying: self.keys.as_ref().map(Keys::keying),
        };
        handle.spawn(&self.events, move || thread.run())
    }

    fn end(&self, threads: Vec<JoinHandle<()>>) {
        self.all_handles().for_each(|handle| handle.pulse.set(Mode::Stop));
        for thread in threads {
            // A panic has been reported as an event by the thread's own ending.
            let _panic = thread.join();
        }
    }

    /// Returns the handle of every thread, that of the keys last.
    fn all_handles(&self) -> impl Iterator<Item = &ThreadHandle> {
        self.handles.iter().chain(self.keys.iter().map(Keys::handle))
    }

    /// Ends the threads, waits for them, wipes the keys and lets go of the descriptors. The second
    /// time does nothing.
    pub fn stop(&self) {
        let mut control = self.control();
        if let Phase::Running(threads) = std::mem::replace(&mut control.phase, Phase::Stopped) {
            self.end(threads);
        }
        if let Some(keys) = &self.keys {
            keys.end(self.tallies.iter().map(|tally| (&*tally.errands, &*tally.outbound)));
        }
        control.workers.clear();
    }

    /// Stops reading; each thread finishes the batch in hand. The kernel's queues hold what comes.
    pub fn pause(&self) {
        self.set_mode(Mode::Pause);
    }

    /// Undoes [`pause`](Self::pause).
    pub fn resume(&self) {
        self.set_mode(Mode::Run);
    }

    fn set_mode(&self, mode: Mode) {
        let control = self.control();
        if !matches!(control.phase, Phase::Stopped) {
            self.all_handles().for_each(|handle| handle.pulse.set(mode));
        }
    }

    /// Carries out a change, whole or not at all; returns the new generation.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] names the first bad item; [`Error::NoEncryption`] where identities are put
    /// and there is none; [`Error::Phase`] after the end.
    pub fn commit(&self, change: Change, identities: Identities) -> Result<u64, Error> {
        let mut control = self.control();
        if matches!(control.phase, Phase::Stopped) {
            return Err(Error::Phase { call: "commit", is: "stopped" });
        }
        if self.keys.is_none() && !identities.put.is_empty() {
            return Err(Error::NoEncryption { call: "putting identities" });
        }
        let fib = control.tables.commit(change)?;
        self.commit_identities(&mut control, identities);
        control.publisher.publish(fib);
        Ok(control.tables.generation())
    }

    /// Switches an offload on or off, from each thread's next batch on. Switching one on ends a
    /// fallback.
    ///
    /// # Errors
    ///
    /// [`Error::Offload`] where it is not supported here; [`Error::Phase`] after the end.
    pub fn set_offload(&self, offload: Offload, enabled: bool) -> Result<(), Error> {
        let control = self.control();
        if matches!(control.phase, Phase::Stopped) {
            return Err(Error::Phase { call: "set_offload", is: "stopped" });
        }
        if self.offloads.set(offload, enabled, &control.workers) {
            Ok(())
        } else {
            Err(Error::Offload(offload))
        }
    }

    /// Returns how every offload stands.
    pub fn offloads(&self) -> Vec<(Offload, State)> {
        Offload::ALL.iter().map(|offload| (*offload, self.offloads.state(*offload))).collect()
    }

    /// Returns the number of changes so far: while it is the same, so is what the engine holds.
    pub fn generation(&self) -> u64 {
        let mut control = self.control();
        control.publisher.collect();
        control.tables.generation()
    }

    /// Returns what the engine holds.
    pub fn digest(&self) -> Snapshot {
        let mut control = self.control();
        control.publisher.collect();
        let tables = &control.tables;
        let adjacencies = tables.adjacencies();
        Snapshot {
            generation: tables.generation(),
            settings: tables.settings().copied(),
            adjacencies: adjacencies.map(|(name, item, _)| (name.to_owned(), *item)).collect(),
            entries: tables.entries().map(|(prefix, name)| (prefix, name.to_owned())).collect(),
            identities: control.identities.iter().map(|(key, trusted)| (*key, *trusted)).collect(),
        }
    }

    /// Returns the counters of every adjacency, by name; their times are on CLOCK_MONOTONIC.
    pub fn adjacency_counters(&self) -> BTreeMap<String, AdjacencyReading> {
        let mut control = self.control();
        control.publisher.collect();
        let adjacencies = control.tables.adjacencies();
        let reading = |counters: &AdjacencyCounters| {
            let reading = counters.read();
            let last_rx_ns = reading.last_rx_ns.map(clock::to_monotonic);
            AdjacencyReading { last_rx_ns, ..reading }
        };
        adjacencies.map(|(name, _, counters)| (name.to_owned(), reading(counters))).collect()
    }

    /// Returns the names of the adjacencies that were sent to, for use, since the last call.
    pub fn take_used(&self) -> Vec<String> {
        let control = self.control();
        let used = control.tables.adjacencies().filter(|(_, _, counters)| counters.take_use());
        used.map(|(name, _, _)| name.to_owned()).collect()
    }

    /// Sends a probe by every socket that leads to the peer. Returns how many answers are to be
    /// expected, with numbers below that; none where it cannot be sent now.
    ///
    /// # Errors
    ///
    /// [`Error::Phase`] before the start and after the end.
    pub fn probe(&self, probe: Probe) -> Result<usize, Error> {
        let control = self.control();
        match control.phase {
            Phase::Running(_) => {}
            Phase::New => return Err(Error::Phase { call: "probe", is: "new" }),
            Phase::Stopped => return Err(Error::Phase { call: "probe", is: "stopped" }),
        }
        let fib = control.publisher.current();
        let paths = match fib.lookup(probe.destination) {
            // An SA has one socket.
            Some(Target::Adjacency(id)) if fib.adjacency(id).way.protected().is_some() => 1,
            _ => control.workers.first().map_or(0, |worker| worker.underlay.paths()),
        };
        if !self.tallies.iter().all(|tally| tally.errands.add(probe)) {
            return Ok(0);
        }
        self.handles
            .iter()
            .filter(|handle| handle.duty != Duty::Inbound)
            .for_each(|handle| handle.pulse.nudge());
        Ok(paths * self.tallies.len())
    }

    /// Returns how many packets each reason cost.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let sum = |reason| self.counters().map(|counters| counters.drops(reason).read()).sum();
        DropReason::ALL.iter().map(|reason| (*reason, sum(*reason))).collect()
    }

    /// Returns how many ICMP errors were sent, and how many were held back.
    pub fn icmp(&self) -> (u64, u64) {
        let sent = self.counters().map(|counters| counters.icmp_sent.read()).sum();
        let suppressed = self.counters().map(|counters| counters.icmp_suppressed.read()).sum();
        (sent, suppressed)
    }

    /// Returns how many arriving datagrams the kernel dropped: their sockets were full. Asked of the
    /// engine's own descriptors; 0 after the end.
    pub fn receive_drops(&self) -> u64 {
        let control = self.control();
        let sockets = control.workers.iter().flat_map(|worker| worker.underlay.receiving());
        sockets.map(meminfo::drops).sum()
    }

    fn counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        let data = self.tallies.iter().flat_map(|tally| [&*tally.outbound, &*tally.inbound]);
        data.chain(self.keys.iter().map(Keys::counters))
    }

    /// Returns a reading per worker and direction.
    pub fn worker_counters(&self) -> Vec<WorkerReading> {
        let reading = |worker, direction, counters: &WorkerCounters| WorkerReading {
            worker,
            direction,
            batches: counters.batches.read(),
            packets: counters.packets.read(),
            bytes: counters.bytes.read(),
        };
        let readings = self.tallies.iter().enumerate().flat_map(|(worker, tally)| {
            [
                reading(worker, Direction::Outbound, &tally.outbound),
                reading(worker, Direction::Inbound, &tally.inbound),
            ]
        });
        readings.collect()
    }

    /// Returns a sign of life per thread.
    pub fn heartbeat(&self) -> Vec<Heartbeat> {
        let heartbeat = |handle: &ThreadHandle| Heartbeat {
            worker: handle.worker,
            duty: handle.duty,
            thread_id: handle.pulse.thread_id(),
            alive: handle.pulse.is_alive(),
            beats: handle.pulse.beats(),
        };
        self.all_handles().map(heartbeat).collect()
    }

    /// Returns what came up since the last call, oldest first.
    pub fn drain_events(&self) -> Vec<Event> {
        self.events.drain()
    }

    /// Returns the number of a descriptor that is readable while there are events. It stays the
    /// engine's own.
    pub fn event_fd(&self) -> RawFd {
        self.events.as_fd().as_raw_fd()
    }
}

/// Returns by whom each worker is sent errands.
fn lanes(handles: &[ThreadHandle], tallies: &[Tally]) -> Vec<Lane> {
    let sending = handles.iter().filter(|handle| handle.duty != Duty::Inbound);
    let lane = |(handle, tally): (&ThreadHandle, &Tally)| Lane {
        errands: Arc::clone(&tally.errands),
        pulse: Arc::clone(&handle.pulse),
    };
    sending.zip(tallies).map(lane).collect()
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
