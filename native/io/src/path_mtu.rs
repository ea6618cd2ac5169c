//! Sockets and the MTU of their paths: how a datagram goes about it, and what the kernel knows.
//!
//! Path of a packet: `io::transmit` → **`io::path_mtu`** → the kernel's answer → `core::path_mtu`.
//! The kernel is asked by the very socket, to the very endpoint: among several ways to a peer another
//! socket's datagrams may take another one. A refused datagram is tried once more while the socket
//! takes errors; the kernel then queues one that holds the MTU. At any other time the socket takes
//! none, since an ICMP error about one peer would be answered to what is sent to another.
//!
//! Source: ip(7), IP_MTU_DISCOVER and IP_RECVERR; ipv6(7); linux/errqueue.h.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::adjacency::OuterDf;

/// How a socket goes about the MTU of paths.
pub(crate) struct Discovery<'a> {
    pub(crate) socket: &'a OwnedFd,
    pub(crate) is_ipv4: bool,
}

/// What became of a datagram that was tried once more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It went this time.
    Went,
    /// It was refused for its size again; what the kernel says would fit, if it does.
    Refused(Option<u32>),
    /// It was refused for another reason.
    Otherwise(Errno),
}

impl Discovery<'_> {
    /// Makes the next datagrams leave as `df` says.
    pub(crate) fn set(&self, df: OuterDf) -> Result<(), Errno> {
        let (ipv4, ipv6) = match df {
            OuterDf::Kernel => (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO),
            OuterDf::Probed => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
            OuterDf::Clear => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT),
        };
        if self.is_ipv4 {
            return self.set_option(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, ipv4);
        }
        self.set_option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, ipv6)
    }

    /// Asks the kernel for the MTU of the path that `send` was refused on, by trying again.
    pub(crate) fn ask(&self, send: impl FnOnce() -> Result<usize, Errno>) -> Asked {
        if self.take_errors(true).is_err() {
            return Asked::Refused(None);
        }
        let asked = match send() {
            Ok(_) => Asked::Went,
            Err(Errno::MSGSIZE) => Asked::Refused(self.read_error()),
            Err(errno) => Asked::Otherwise(errno),
        };
        // Switching it off empties the queue. It was possible a moment ago.
        let _done = self.take_errors(false);
        asked
    }

    fn take_errors(&self, enabled: bool) -> Result<(), Errno> {
        let (level, option) = if self.is_ipv4 {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        };
        self.set_option(level, option, libc::c_int::from(enabled))
    }

    fn set_option(
        &self,
        level: libc::c_int,
        option: libc::c_int,
        value: libc::c_int,
    ) -> Result<(), Errno> {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        let value = (&raw const value).cast();
        // SAFETY: `value` points to `len` bytes that live until the call returns.
        let result =
            unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, value, len) };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Reads queued errors until one of our own datagrams' size; returns the MTU in it.
    fn read_error(&self) -> Option<u32> {
        loop {
            let error = self.next_error()?;
            if error.ee_origin == libc::SO_EE_ORIGIN_LOCAL
                && error.ee_errno == libc::EMSGSIZE as u32
            {
                return Some(error.ee_info);
            }
        }
    }

    /// Takes the first queued error.
    fn next_error(&self) -> Option<libc::sock_extended_err> {
        /// Room for an error with the address that follows it, and more.
        #[repr(C)]
        struct Control {
            header: libc::cmsghdr,
            error: libc::sock_extended_err,
            rest: [u64; 16],
        }
        // SAFETY: all three are plain numbers, of which any bits are a value.
        let mut control: Control = unsafe { std::mem::zeroed() };
        // SAFETY: null pointers with lengths of 0 are what the kernel takes for nothing.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<Control>();
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the control buffer lives until the call returns; there is no other buffer.
        let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, flags) };
        let kind = (control.header.cmsg_level, control.header.cmsg_type);
        let is_error = kind == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
        (result >= 0 && is_error).then_some(control.error)
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// The loopback device of most machines carries 65,536 bytes; no datagram is longer than 65,535.
    #[test]
    fn socket_that_refuses_nothing_is_not_asked() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let to = socket.local_addr().unwrap();
            let owned = OwnedFd::from(socket.try_clone().unwrap());
            let discovery = Discovery { socket: &owned, is_ipv4: to.is_ipv4() };
            for df in [OuterDf::Clear, OuterDf::Probed, OuterDf::Kernel] {
                discovery.set(df).unwrap();
                let sent = discovery.ask(|| {
                    socket
                        .send_to(&[7; 4_000], to)
                        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                });
                assert_eq!(sent, Asked::Went);
            }
        }
    }
}
