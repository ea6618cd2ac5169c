//! Congestion marks of the underlay: asked of the kernel with every message.
//!
//! Source: ip(7), IP_RECVTOS; ipv6(7) and RFC 3542 §6.5, IPV6_RECVTCLASS.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::descriptor::Descriptors;

/// Asks that messages come with the type of service or traffic class of their datagrams.
pub(crate) fn ask_for(workers: &[Descriptors]) {
    for socket in workers.iter().flat_map(|worker| worker.underlay.receiving()) {
        // A socket is of one family, and refuses the other's; a socket over IPv6 that takes IPv4 as
        // well takes both.
        set(socket, libc::IPPROTO_IP, libc::IP_RECVTOS);
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS);
    }
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const on).cast();
    // SAFETY: `value` points to `len` bytes that live until the call returns.
    let _refused = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, len) };
}
