//! Batches of datagrams and of trains: recvmmsg and sendmmsg.
//!
//! Path of a packet: underlay → **`mmsg`** → `core::inbound`; `core::batch` → **`mmsg`** →
//! underlay. The tables of pointers the kernel wants are written anew for each call, into memory
//! that is kept, so that no pointer outlives what it points to.
//!
//! Source: recvmmsg(2), sendmmsg(2), cmsg(3), udp(7).

mod receiver;
mod sender;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;

pub(crate) use receiver::Receiver;
pub(crate) use sender::{Outlet, Sender, Source};

fn checked(result: libc::c_int) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// An address as the kernel wants it, of either family. Source: ip(7), ipv6(7).
///
/// `sockaddr_in` is its first 16 bytes, with the address where IPv6 has the flow label;
/// `sockaddr_in6` is the whole of it.
#[repr(C)]
struct Address {
    family: libc::sa_family_t,
    port: [u8; 2],
    ipv4_or_flow: [u8; 4],
    ipv6: [u8; 16],
    scope: u32,
}

const _: () = assert!(size_of::<Address>() == size_of::<libc::sockaddr_in6>());
const _: () = assert!(align_of::<Address>() == align_of::<libc::sockaddr_in6>());

impl Address {
    const LEN: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    const IPV4_LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

    /// Room for one that the kernel writes.
    const EMPTY: Self =
        Self { family: 0, port: [0; 2], ipv4_or_flow: [0; 4], ipv6: [0; 16], scope: 0 };

    /// Returns `endpoint` with the length the kernel knows its family by.
    const fn of(endpoint: SocketAddr) -> (Self, libc::socklen_t) {
        let port = endpoint.port().to_be_bytes();
        match endpoint {
            SocketAddr::V4(endpoint) => {
                let ipv4_or_flow = endpoint.ip().octets();
                let family = libc::AF_INET as libc::sa_family_t;
                (Self { family, port, ipv4_or_flow, ..Self::EMPTY }, Self::IPV4_LEN)
            }
            SocketAddr::V6(endpoint) => {
                let (ipv6, scope) = (endpoint.ip().octets(), endpoint.scope_id());
                let family = libc::AF_INET6 as libc::sa_family_t;
                (Self { family, port, ipv4_or_flow: [0; 4], ipv6, scope }, Self::LEN)
            }
        }
    }

    fn read(&self) -> SocketAddr {
        let port = u16::from_be_bytes(self.port);
        if libc::c_int::from(self.family) == libc::AF_INET6 {
            SocketAddr::new(Ipv6Addr::from(self.ipv6).into(), port)
        } else {
            SocketAddr::new(Ipv4Addr::from(self.ipv4_or_flow).into(), port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_written_and_read() {
        for (text, len) in [("192.0.2.1:8472", 16), ("[2001:db8::1]:8472", 28)] {
            let endpoint: SocketAddr = text.parse().unwrap();
            let (address, written) = Address::of(endpoint);
            assert_eq!((address.read(), written), (endpoint, len));
        }
    }
}
