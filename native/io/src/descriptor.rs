//! Duplicates of the descriptors that Python opened.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::error::Error;

/// What a data thread reads and writes.
pub(crate) struct Descriptors {
    /// The worker's queue of the overlay device.
    pub(crate) tun: OwnedFd,
    /// Its UDP socket.
    pub(crate) underlay: OwnedFd,
    /// The raw socket ICMP errors leave by.
    pub(crate) icmp: OwnedFd,
}

impl Descriptors {
    /// Returns duplicates of all three.
    pub(crate) fn again(&self) -> Result<Self, Error> {
        Ok(Self {
            tun: duplicate("TUN", self.tun.as_raw_fd())?,
            underlay: duplicate("UDP", self.underlay.as_raw_fd())?,
            icmp: duplicate("ICMP", self.icmp.as_raw_fd())?,
        })
    }
}

/// Returns a duplicate of `number` that is closed on exec, and makes it non-blocking.
///
/// Whether it blocks belongs to the open file, so it changes for the caller's descriptor too.
pub(crate) fn duplicate(role: &'static str, number: RawFd) -> Result<OwnedFd, Error> {
    let fail = |errno| Error::Descriptor { role, number, errno };
    if number < 0 {
        return Err(fail(Errno::BADF));
    }
    // SAFETY: the borrow ends with this function, and the caller keeps its descriptors open
    // while it hands them over. A number that is not open makes the kernel answer EBADF.
    let given = unsafe { BorrowedFd::borrow_raw(number) };
    let own = fcntl_dupfd_cloexec(given, 3).map_err(fail)?;
    let flags = fcntl_getfl(&own).map_err(fail)?;
    fcntl_setfl(&own, flags | OFlags::NONBLOCK).map_err(fail)?;
    Ok(own)
}
