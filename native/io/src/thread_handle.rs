//! One thread as the control side sees it: its start, its signs of life, its end.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use rustix::io::Errno;

use crate::duty::Duty;
use crate::error::Error;
use crate::event::{Event, Events};
use crate::pulse::Pulse;

/// The control side's handle of one thread.
pub(crate) struct ThreadHandle {
    pub(crate) worker: usize,
    pub(crate) duty: Duty,
    pub(crate) pulse: Arc<Pulse>,
}

impl ThreadHandle {
    pub(crate) fn new(worker: usize, duty: Duty) -> Result<Self, Error> {
        Ok(Self { worker, duty, pulse: Arc::new(Pulse::new()?) })
    }

    /// Starts the thread. Its end shows in the pulse; an end nobody asked for is an event too.
    pub(crate) fn spawn(
        &self,
        events: &Arc<Events>,
        run: impl FnOnce() -> Result<(), Errno> + Send + 'static,
    ) -> Result<JoinHandle<()>, Error> {
        let ending = Ending {
            worker: self.worker,
            duty: self.duty,
            pulse: Arc::clone(&self.pulse),
            events: Arc::clone(events),
            result: None,
        };
        self.pulse.set_alive(true);
        Builder::new()
            .name(self.duty.thread_name(self.worker))
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
    duty: Duty,
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
        let (worker, duty) = (self.worker, self.duty);
        self.events.push(Event::WorkerEnded { worker, duty, reason });
    }
}
