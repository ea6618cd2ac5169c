//! Batches of datagrams and of trains: recvmmsg and sendmmsg.
//!
//! Path of a packet: underlay → **`mmsg`** → `core::inbound`; `core::batch` → **`mmsg`** →
//! underlay. The tables of pointers the kernel wants are written anew for each call, into memory
//! that is kept, so that no pointer outlives what it points to.
//!
//! Source: recvmmsg(2), sendmmsg(2), cmsg(3), udp(7).

mod receiver;
mod sender;

use std::net::{Ipv4Addr, SocketAddrV4};

use rustix::io::Errno;

pub(crate) use receiver::Receiver;
pub(crate) use sender::Sender;

/// The kernel's view of some messages, each with a control message of type `C`.
struct Table<C> {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_in>,
    controls: Vec<Option<C>>,
}

impl<C> Table<C> {
    fn new(capacity: usize) -> Self {
        Self {
            headers: Vec::with_capacity(capacity),
            parts: Vec::with_capacity(capacity),
            addresses: Vec::with_capacity(capacity),
            controls: Vec::with_capacity(capacity),
        }
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.parts.clear();
        self.addresses.clear();
        self.controls.clear();
    }

    fn push(&mut self, base: *mut u8, len: usize, address: SocketAddrV4, control: Option<C>) {
        self.parts.push(libc::iovec { iov_base: base.cast(), iov_len: len });
        self.addresses.push(to_sockaddr(address));
        self.controls.push(control);
    }

    /// Writes the headers over all the rest. Nothing may grow between this and the call.
    fn link(&mut self) {
        let rows = self.parts.iter_mut().zip(&mut self.addresses).zip(&mut self.controls);
        for ((part, address), control) in rows {
            let (msg_control, msg_controllen) = match control {
                Some(control) => (std::ptr::from_mut(control).cast(), size_of::<C>()),
                None => (std::ptr::null_mut(), 0),
            };
            self.headers.push(libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: std::ptr::from_mut(address).cast(),
                    msg_namelen: size_of::<libc::sockaddr_in>() as u32,
                    msg_iov: part,
                    msg_iovlen: 1,
                    msg_control,
                    msg_controllen,
                    msg_flags: 0,
                },
                msg_len: 0,
            });
        }
    }
}

fn checked(result: libc::c_int) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

const fn to_sockaddr(endpoint: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: endpoint.port().to_be(),
        sin_addr: libc::in_addr { s_addr: endpoint.ip().to_bits().to_be() },
        sin_zero: [0; 8],
    }
}

const fn from_sockaddr(address: &libc::sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(address.sin_port))
}
