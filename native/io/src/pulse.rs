//! What the control side and one data thread say to each other: go, pause, stop, alive.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::time::Timespec;
use tunneld_core::counters::Counter;

use crate::error::Error;
use crate::event::{clear, signal};

/// Longest a thread waits before it shows that it is alive.
const BEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// What a thread is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    Run,
    Pause,
    Stop,
}

/// One per data thread.
pub(crate) struct Pulse {
    mode: AtomicU8,
    wake: OwnedFd,
    beats: Counter,
    alive: AtomicBool,
}

impl Pulse {
    pub(crate) fn new() -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::Kernel { call: "eventfd", errno })?;
        Ok(Self {
            mode: AtomicU8::new(Mode::Run as u8),
            wake,
            beats: Counter::default(),
            alive: AtomicBool::new(false),
        })
    }

    /// Tells the thread what to do. It finishes the batch in hand first.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
        signal(&self.wake);
    }

    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Run,
            1 => Mode::Pause,
            _ => Mode::Stop,
        }
    }

    pub(crate) fn set_alive(&self, alive: bool) {
        self.alive.store(alive, Ordering::Release);
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Shows that the thread is alive. Only the thread itself may call this.
    pub(crate) fn beat(&self) {
        self.beats.add(1);
    }

    pub(crate) fn beats(&self) -> u64 {
        self.beats.read()
    }

    /// Waits until `fd` is readable, through any pauses. Returns what it is, or `None` to stop.
    pub(crate) fn wait_readable(&self, fd: &OwnedFd) -> Result<Option<PollFlags>, Errno> {
        loop {
            self.beat();
            let fd = match self.mode() {
                Mode::Stop => return Ok(None),
                Mode::Pause => None,
                Mode::Run => Some(fd),
            };
            let ready = self.poll(fd, PollFlags::IN, &BEAT)?;
            if !ready.is_empty() && self.mode() == Mode::Run {
                return Ok(Some(ready));
            }
        }
    }

    /// Waits until `fd` is writable. Returns false to stop instead.
    pub(crate) fn wait_writable(&self, fd: &OwnedFd) -> Result<bool, Errno> {
        loop {
            self.beat();
            if self.mode() == Mode::Stop {
                return Ok(false);
            }
            if !self.poll(Some(fd), PollFlags::OUT, &BEAT)?.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Gives the kernel a millisecond, for a shortage that no descriptor reports the end of.
    /// Returns false to stop instead.
    pub(crate) fn wait_for_memory(&self) -> Result<bool, Errno> {
        self.beat();
        self.poll(None, PollFlags::empty(), &Timespec { tv_sec: 0, tv_nsec: 1_000_000 })?;
        Ok(self.mode() != Mode::Stop)
    }

    fn poll(
        &self,
        fd: Option<&OwnedFd>,
        interest: PollFlags,
        timeout: &Timespec,
    ) -> Result<PollFlags, Errno> {
        let mut fds = [
            PollFd::new(&self.wake, PollFlags::IN),
            PollFd::from_borrowed_fd(fd.unwrap_or(&self.wake).as_fd(), interest),
        ];
        let used = if fd.is_some() { 2 } else { 1 };
        match poll(&mut fds[..used], Some(timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if fds[0].revents().contains(PollFlags::IN) {
            clear(&self.wake);
        }
        Ok(if fd.is_some() { fds[1].revents() } else { PollFlags::empty() })
    }
}
