//! What the kernel dropped as a socket's receive buffer was full.
//!
//! Source: socket(7), SO_MEMINFO; include/uapi/linux/sock_diag.h, SK_MEMINFO_DROPS.

use std::os::fd::{AsRawFd, OwnedFd};

/// What is told of a socket, the drops last.
const FIELDS: usize = 9;

/// Returns how many datagrams were dropped since the socket was made; 0 where the kernel does not
/// tell.
pub(crate) fn drops(socket: &OwnedFd) -> u64 {
    let mut told = [0_u32; FIELDS];
    let mut len = size_of_val(&told) as libc::socklen_t;
    let value = told.as_mut_ptr().cast();
    let (number, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
    // SAFETY: `value` points to `len` bytes that live until the call returns, as does `len`.
    let result = unsafe { libc::getsockopt(number, level, libc::SO_MEMINFO, value, &raw mut len) };
    if result == 0 { told[FIELDS - 1].into() } else { 0 }
}
