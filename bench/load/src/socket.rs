//! UDP sockets with room for bursts.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// So that a receiver that waits for its turn on the CPU is not what loses datagrams.
const RECEIVE_BUFFER_LEN: libc::c_int = 8 << 20;

/// Opens a socket on an address of this host.
pub(crate) fn bound(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    let len = std::ptr::from_ref(&RECEIVE_BUFFER_LEN);
    // SAFETY: the option takes a pointer to an int and its size; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            len.cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Opens a socket that sends to one address and hears that one alone.
pub(crate) fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
    };
    socket.connect(to)?;
    Ok(socket)
}
