//! One data thread as the control side sees it: its start, its counters, its end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;
use tunneld_core::counters::{Direction, WorkerCounters};

use crate::error::Error;
use crate::event::{Event, Events};
use crate::pulse::Pulse;

/// One data thread.
pub(crate) struct Lane {
    pub(crate) worker: usize,
    pub(crate) direction: Direction,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) pulse: Arc<Pulse>,
}

impl Lane {
    pub(crate) fn new(worker: usize, direction: Direction) -> Result<Self, Error> {
        let (counters, pulse) = (Arc::default(), Arc::new(Pulse::new()?));
        Ok(Self { worker, direction, counters, pulse })
    }

    /// Starts the thread. Its end shows in the pulse; an end nobody asked for is an event too.
    pub(crate) fn spawn(
        &self,
        events: &Arc<Events>,
        run: impl FnOnce() -> Result<(), Errno> + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let short = match self.direction {
            Direction::Outbound => "out",
            Direction::Inbound => "in",
        };
        let ending = Ending {
            worker: self.worker,
            direction: self.direction,
            pulse: Arc::clone(&self.pulse),
            events: Arc::clone(events),
            result: None,
        };
        self.pulse.set_alive(true);
        Builder::new()
            .name(format!("tunneld-{short}{}", self.worker))
            .spawn(move || ending.run(run))
            .map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
                Error::Kernel { call: "thread creation", errno }
            })
    }
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
        self.pulse.name_thread();
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
