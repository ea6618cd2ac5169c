//! The data path as one handle: descriptors in, threads inside, plain values out.
//!
//! Path of a lease: `py` → **`io::engine`** (→ `core::transaction` → `publish`) → threads.
//! Every call is short, except `stop`, which waits for the threads.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;
use tunneld_core::counters::{AdjacencyReading, Direction, WorkerCounters};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::fib::Settings;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::transaction::{Change, Tables};

use crate::descriptor::duplicate;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::inbound::InboundThread;
use crate::outbound::OutboundThread;
use crate::publish::Publisher;
use crate::pulse::{Mode, Pulse};

/// One worker's descriptors, and what its two threads share with the control side.
struct Worker {
    tun: OwnedFd,
    underlay: OwnedFd,
    outbound: Lane,
    inbound: Lane,
}

/// One thread's side of the control.
struct Lane {
    direction: Direction,
    counters: Arc<WorkerCounters>,
    pulse: Arc<Pulse>,
}

impl Lane {
    fn new(direction: Direction) -> Result<Self, Error> {
        let (counters, pulse) = (Arc::default(), Arc::new(Pulse::new()?));
        Ok(Self { direction, counters, pulse })
    }
}

enum Phase {
    New,
    Running(Vec<JoinHandle<()>>),
    Stopped,
}

struct Control {
    phase: Phase,
    tables: Tables,
    publisher: Publisher,
}

/// A data path. Dropping it stops the threads.
pub struct Engine {
    workers: Vec<Worker>,
    icmp: OwnedFd,
    events: Arc<Events>,
    control: Mutex<Control>,
}

/// What the engine holds.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How many changes have been carried out.
    pub generation: u64,
    /// The settings, once there are some.
    pub settings: Option<Settings>,
    /// The adjacencies, sorted by name.
    pub adjacencies: Vec<(String, tunneld_core::adjacency::Parameters)>,
    /// The prefixes with the names of their targets, sorted by address and length.
    pub entries: Vec<(tunneld_core::prefix::Prefix, String)>,
}

/// A reading of one thread's counters.
#[derive(Debug, Clone, Copy)]
pub struct WorkerReading {
    /// Number of the worker.
    pub worker: usize,
    /// Which of its threads.
    pub direction: Direction,
    /// Batches handled.
    pub batches: u64,
    /// Packets that came in.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A sign of life of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// Number of the worker.
    pub worker: usize,
    /// Which of its threads.
    pub direction: Direction,
    /// Whether the thread runs.
    pub alive: bool,
    /// Rises at least once a second while it is healthy.
    pub beats: u64,
}

impl Engine {
    /// Returns an engine over duplicates of the descriptors. Worker i takes TUN queue i and UDP
    /// socket i; all share the raw socket.
    ///
    /// # Errors
    ///
    /// [`Error::Workers`], [`Error::Descriptor`], [`Error::Kernel`].
    pub fn new(tun: &[RawFd], underlay: &[RawFd], icmp: RawFd) -> Result<Self, Error> {
        if tun.is_empty() || tun.len() != underlay.len() {
            return Err(Error::Workers { tun_queues: tun.len(), sockets: underlay.len() });
        }
        let workers = tun
            .iter()
            .zip(underlay)
            .map(|(tun, underlay)| {
                Ok(Worker {
                    tun: duplicate("TUN", *tun)?,
                    underlay: duplicate("UDP", *underlay)?,
                    outbound: Lane::new(Direction::Outbound)?,
                    inbound: Lane::new(Direction::Inbound)?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let control = Control {
            phase: Phase::New,
            tables: Tables::new(workers.len()),
            publisher: Publisher::new(),
        };
        Ok(Self {
            workers,
            icmp: duplicate("ICMP", icmp)?,
            events: Arc::new(Events::new()?),
            control: Mutex::new(control),
        })
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.workers
            .iter()
            .enumerate()
            .flat_map(|(number, worker)| [(number, &worker.outbound), (number, &worker.inbound)])
    }

    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// [`Error::Phase`] the second time; [`Error::Kernel`] where there can be no more threads.
    pub fn start(&self) -> Result<(), Error> {
        let mut control = self.control();
        match control.phase {
            Phase::New => {}
            Phase::Running(_) => return Err(Error::Phase { call: "start", is: "running" }),
            Phase::Stopped => return Err(Error::Phase { call: "start", is: "stopped" }),
        }
        let mut threads = Vec::with_capacity(2 * self.workers.len());
        for number in 0..self.workers.len() {
            for started in
                [self.start_outbound(number, &control), self.start_inbound(number, &control)]
            {
                match started {
                    Ok(thread) => threads.push(thread),
                    Err(error) => {
                        self.end(threads);
                        control.phase = Phase::Stopped;
                        return Err(error);
                    }
                }
            }
        }
        control.phase = Phase::Running(threads);
        Ok(())
    }

    fn start_outbound(&self, number: usize, control: &Control) -> Result<JoinHandle<()>, Error> {
        let worker = &self.workers[number];
        let lane = &worker.outbound;
        let thread = OutboundThread {
            tun: again(&worker.tun)?,
            underlay: again(&worker.underlay)?,
            icmp: again(&self.icmp)?,
            outbound: Outbound::new(number, Arc::clone(&lane.counters)),
            fibs: control.publisher.reader(),
            pulse: Arc::clone(&lane.pulse),
            events: Arc::clone(&self.events),
        };
        self.spawn(format!("tunneld-out{number}"), number, lane, move || thread.run())
    }

    fn start_inbound(&self, number: usize, control: &Control) -> Result<JoinHandle<()>, Error> {
        let worker = &self.workers[number];
        let lane = &worker.inbound;
        let thread = InboundThread {
            tun: again(&worker.tun)?,
            underlay: again(&worker.underlay)?,
            icmp: again(&self.icmp)?,
            inbound: Inbound::new(number, Arc::clone(&lane.counters)),
            fibs: control.publisher.reader(),
            pulse: Arc::clone(&lane.pulse),
        };
        self.spawn(format!("tunneld-in{number}"), number, lane, move || thread.run())
    }

    fn spawn(
        &self,
        name: String,
        worker: usize,
        lane: &Lane,
        run: impl FnOnce() -> Result<(), Errno> + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let ending = Ending {
            worker,
            direction: lane.direction,
            pulse: Arc::clone(&lane.pulse),
            events: Arc::clone(&self.events),
            result: None,
        };
        lane.pulse.set_alive(true);
        Builder::new().name(name).spawn(move || ending.run(run)).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
            Error::Kernel { call: "thread creation", errno }
        })
    }

    fn end(&self, threads: Vec<JoinHandle<()>>) {
        self.lanes().for_each(|(_, lane)| lane.pulse.set(Mode::Stop));
        for thread in threads {
            // A panic has been reported as an event by the thread's own ending.
            let _panic = thread.join();
        }
    }

    /// Ends the threads and waits for them. The second time does nothing.
    pub fn stop(&self) {
        let mut control = self.control();
        if let Phase::Running(threads) = std::mem::replace(&mut control.phase, Phase::Stopped) {
            self.end(threads);
        }
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
            self.lanes().for_each(|(_, lane)| lane.pulse.set(mode));
        }
    }

    /// Carries out a change, whole or not at all; returns the new generation.
    ///
    /// # Errors
    ///
    /// [`Error::Change`] names the first bad item; [`Error::Phase`] after the end.
    pub fn commit(&self, change: Change) -> Result<u64, Error> {
        let mut control = self.control();
        if matches!(control.phase, Phase::Stopped) {
            return Err(Error::Phase { call: "commit", is: "stopped" });
        }
        let fib = control.tables.commit(change)?;
        control.publisher.publish(fib);
        Ok(control.tables.generation())
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
        }
    }

    /// Returns the counters of every adjacency, by name.
    pub fn adjacency_counters(&self) -> BTreeMap<String, AdjacencyReading> {
        let mut control = self.control();
        control.publisher.collect();
        let adjacencies = control.tables.adjacencies();
        adjacencies.map(|(name, _, counters)| (name.to_owned(), counters.read())).collect()
    }

    /// Returns how many packets each reason cost.
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let sum = |reason| self.lanes().map(|(_, lane)| lane.counters.drops(reason).read()).sum();
        DropReason::ALL.iter().map(|reason| (*reason, sum(*reason))).collect()
    }

    /// Returns how many ICMP errors were sent, and how many were held back.
    pub fn icmp(&self) -> (u64, u64) {
        let sent = self.lanes().map(|(_, lane)| lane.counters.icmp_sent.read()).sum();
        let suppressed = self.lanes().map(|(_, lane)| lane.counters.icmp_suppressed.read()).sum();
        (sent, suppressed)
    }

    /// Returns a reading per thread.
    pub fn worker_counters(&self) -> Vec<WorkerReading> {
        let reading = |(worker, lane): (usize, &Lane)| WorkerReading {
            worker,
            direction: lane.direction,
            batches: lane.counters.batches.read(),
            packets: lane.counters.packets.read(),
            bytes: lane.counters.bytes.read(),
        };
        self.lanes().map(reading).collect()
    }

    /// Returns a sign of life per thread.
    pub fn heartbeat(&self) -> Vec<Heartbeat> {
        let heartbeat = |(worker, lane): (usize, &Lane)| Heartbeat {
            worker,
            direction: lane.direction,
            alive: lane.pulse.is_alive(),
            beats: lane.pulse.beats(),
        };
        self.lanes().map(heartbeat).collect()
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

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn again(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    duplicate("engine's", fd.as_raw_fd())
}

/// Says that a thread is gone, whichever way it went: at its drop.
struct Ending {
    worker: usize,
    direction: Direction,
    pulse: Arc<Pulse>,
    events: Arc<Events>,
    /// `None`: it did not come to its end.
    result: Option<Result<(), Errno>>,
}

impl Ending {
    fn run(mut self, run: impl FnOnce() -> Result<(), Errno>) {
        self.result = Some(run());
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.pulse.set_alive(false);
        let reason = match self.result {
            Some(Ok(())) => return,
            Some(Err(errno)) => errno.to_string(),
            None => "it panicked".to_owned(),
        };
        let (worker, direction) = (self.worker, self.direction);
        self.events.push(Event::WorkerEnded { worker, direction, reason });
    }
}
