//! Descriptors by which one thread wakes another. Source: eventfd(2).

use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;

use crate::error::Error;

/// Returns a new one, not readable, that never blocks.
pub(crate) fn new() -> Result<OwnedFd, Error> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Error::Kernel { call: "eventfd", errno })
}

/// Makes an eventfd readable. It can only fail when its counter is full: then it is readable.
pub(crate) fn signal(eventfd: &OwnedFd) {
    let _full = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// Makes an eventfd unreadable. It can only fail when it was not readable.
pub(crate) fn clear(eventfd: &OwnedFd) {
    let _empty = rustix::io::read(eventfd, &mut [0u8; 8]);
}
