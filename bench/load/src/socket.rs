//! UDP sockets with room for bursts.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

/// So that a receiver that waits for its turn on the CPU is not what loses datagrams.
const RECEIVE_BUFFER_LEN: libc::c_int = 8 << 20;

/// Opens a socket on an address of this host.
pub(crate) fn bound(at: SocketAddrV4) -> io::Result<UdpSocket> {
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
pub(crate) fn connected(to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    Ok(socket)
}
