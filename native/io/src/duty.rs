//! The duties of threads: which directions of a worker they serve.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;

/// Which directions of its worker a thread serves, or that it shakes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// From the device to the underlay.
    Outbound,
    /// From the underlay to the device.
    Inbound,
    /// Both, in turn.
    Both,
    /// Neither: it agrees keys, for all workers.
    Keying,
}

impl Duty {
    /// Returns the duty's name outside this program.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Both => "both",
            Self::Keying => "keying",
        }
    }

    /// Returns the thread's name, which has 15 characters at most (prctl(2)).
    pub(crate) fn thread_name(self, worker: usize) -> String {
        match self {
            Self::Outbound => format!("tunneld-out{worker}"),
            Self::Inbound => format!("tunneld-in{worker}"),
            Self::Both => format!("tunneld-both{worker}"),
            Self::Keying => "tunneld-keying".to_owned(),
        }
    }
}

/// What a pass of a duty found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// All that was there.
    All,
    /// A batch, and there may be more.
    Part,
}

/// What a thread goes on with while it waits for the underlay to take a datagram: its other duty.
pub(crate) trait Meanwhile {
    /// Returns the descriptors to wait for, beside the one that is full.
    fn awaited(&self) -> &[BorrowedFd<'_>];

    /// Goes on, where `ready` says what the wait found of each of them.
    fn go_on(&mut self, ready: &[PollFlags]) -> Result<(), Errno>;
}
