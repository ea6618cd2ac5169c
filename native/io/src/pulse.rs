//! What the control side and one data thread say to each other: go, pause, stop, alive.

use std::iter;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::thread::gettid;
use rustix::time::Timespec;
use tunneld_core::counters::Counter;

use crate::error::Error;
use crate::eventfd;

/// Longest a thread waits before it shows that it is alive.
const BEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Most sockets a thread receives from: one of each family on each of two ports.
pub(crate) const MAX_SOCKETS: usize = 4;

/// Most descriptors a thread waits for at once: its sockets, and its queue of the device.
const MAX_WAITED: usize = MAX_SOCKETS + 1;

/// What each descriptor is after a wait; those that nobody waited for are nothing.
type Ready = [PollFlags; MAX_WAITED];

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
    /// The kernel's number of the thread; 0 before it has one.
    thread_id: AtomicI32,
}

impl Pulse {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self {
            mode: AtomicU8::new(Mode::Run as u8),
            wake: eventfd::new()?,
            beats: Counter::default(),
            alive: AtomicBool::new(false),
            thread_id: AtomicI32::new(0),
        })
    }

    /// Tells the thread what to do. It finishes the batch in hand first.
    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
        eventfd::signal(&self.wake);
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

    /// Says which thread of the kernel this is. Only the thread itself may call this.
    pub(crate) fn name_thread(&self) {
        self.thread_id.store(gettid().as_raw_nonzero().get(), Ordering::Release);
    }

    pub(crate) fn thread_id(&self) -> i32 {
        self.thread_id.load(Ordering::Acquire)
    }

    /// Shows that the thread is alive. Only the thread itself may call this.
    pub(crate) fn beat(&self) {
        self.beats.add(1);
    }

    pub(crate) fn beats(&self) -> u64 {
        self.beats.read()
    }

    /// Ends a wait, for the thread to look whether it has something to do.
    pub(crate) fn nudge(&self) {
        eventfd::signal(&self.wake);
    }

    /// Waits until one of `fds` is readable or `has_errand` holds, through any pauses. Returns what
    /// each is, or `None` to stop. Who makes `has_errand` hold nudges.
    pub(crate) fn wait_readable(
        &self,
        fds: &[BorrowedFd<'_>],
        has_errand: impl Fn() -> bool,
    ) -> Result<Option<Ready>, Errno> {
        loop {
            self.beat();
            let fds = match self.mode() {
                Mode::Stop => return Ok(None),
                Mode::Pause => &[],
                Mode::Run => fds,
            };
            let ready = self.poll(fds.iter().map(|fd| (*fd, PollFlags::IN)), &BEAT)?;
            let is_due = has_errand() || ready.iter().any(|ready| !ready.is_empty());
            if is_due && self.mode() == Mode::Run {
                return Ok(Some(ready));
            }
        }
    }

    /// Waits until somebody nudges, for `timeout` at most. Returns what to do now.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<Mode, Errno> {
        self.beat();
        if self.mode() != Mode::Stop {
            let nanoseconds = i64::from(timeout.subsec_nanos());
            let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: nanoseconds };
            let is_longer = (timeout.tv_sec, timeout.tv_nsec) > (BEAT.tv_sec, BEAT.tv_nsec);
            self.poll(iter::empty(), if is_longer { &BEAT } else { &timeout })?;
        }
        Ok(self.mode())
    }

    /// Waits until `fd` is writable, or one of `others` readable; in a pause for `fd` alone.
    /// Returns whether `fd` is writable and what each of the others is, or `None` to stop.
    pub(crate) fn wait_writable(
        &self,
        fd: BorrowedFd<'_>,
        others: &[BorrowedFd<'_>],
    ) -> Result<Option<(bool, [PollFlags; MAX_SOCKETS])>, Errno> {
        loop {
            match self.wait_writable_for(fd, others, &BEAT)? {
                Some((false, others)) if others.iter().all(|ready| ready.is_empty()) => {}
                other => return Ok(other),
            }
        }
    }

    /// Does the same, but waits no longer than `timeout`: then neither is ready.
    pub(crate) fn wait_writable_for(
        &self,
        fd: BorrowedFd<'_>,
        others: &[BorrowedFd<'_>],
        timeout: &Timespec,
    ) -> Result<Option<(bool, [PollFlags; MAX_SOCKETS])>, Errno> {
        self.beat();
        let others = match self.mode() {
            Mode::Stop => return Ok(None),
            Mode::Pause => &[],
            Mode::Run => others,
        };
        let others = others.iter().map(|fd| (*fd, PollFlags::IN));
        let [writable, others @ ..] =
            self.poll(iter::once((fd, PollFlags::OUT)).chain(others), timeout)?;
        Ok(Some((!writable.is_empty(), others)))
    }

    /// Gives the kernel a millisecond, for a shortage that no descriptor reports the end of.
    /// Returns false to stop instead.
    pub(crate) fn wait_for_memory(&self) -> Result<bool, Errno> {
        self.beat();
        self.poll(iter::empty(), &Timespec { tv_sec: 0, tv_nsec: 1_000_000 })?;
        Ok(self.mode() != Mode::Stop)
    }

    fn poll<'a>(
        &'a self,
        wanted: impl Iterator<Item = (BorrowedFd<'a>, PollFlags)>,
        timeout: &Timespec,
    ) -> Result<Ready, Errno> {
        let mut polled: [PollFd<'_>; 1 + MAX_WAITED] =
            std::array::from_fn(|_| PollFd::new(&self.wake, PollFlags::IN));
        let mut used = 1;
        for (polled, (fd, interest)) in polled[1..].iter_mut().zip(wanted) {
            *polled = PollFd::from_borrowed_fd(fd, interest);
            used += 1;
        }
        match poll(&mut polled[..used], Some(timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if polled[0].revents().contains(PollFlags::IN) {
            eventfd::clear(&self.wake);
        }
        let mut ready = [PollFlags::empty(); MAX_WAITED];
        for (ready, polled) in ready.iter_mut().zip(&polled[1..used]) {
            *ready = polled.revents();
        }
        Ok(ready)
    }
}
