//! Batches of datagrams: recvmmsg and sendmmsg.
//!
//! Path of a packet: underlay → **`mmsg`** → `core::inbound`; `core::batch` → **`mmsg`** →
//! underlay. The tables of pointers the kernel wants are written anew for each call, into memory
//! that is kept, so that no pointer outlives what it points to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::batch::{MAX_DATAGRAMS, SendBatch};

/// Takes every UDP payload whole: at most 65,507 bytes over IPv4.
const SLOT_LEN: usize = 65_536;
/// The rest keeps the starts of the slots out of one set of the cache.
const SLOT_STRIDE: usize = SLOT_LEN + 1_088;

/// The kernel's view of some datagrams.
struct Table {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    addresses: Vec<libc::sockaddr_in>,
}

impl Table {
    fn new() -> Self {
        Self {
            headers: Vec::with_capacity(MAX_DATAGRAMS),
            parts: Vec::with_capacity(MAX_DATAGRAMS),
            addresses: Vec::with_capacity(MAX_DATAGRAMS),
        }
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.parts.clear();
        self.addresses.clear();
    }

    fn push(&mut self, base: *mut u8, len: usize, address: libc::sockaddr_in) {
        self.parts.push(libc::iovec { iov_base: base.cast(), iov_len: len });
        self.addresses.push(address);
    }

    /// Writes the headers over the parts and addresses. Neither may grow before the call.
    fn link(&mut self) {
        for (part, address) in self.parts.iter_mut().zip(&mut self.addresses) {
            self.headers.push(libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: std::ptr::from_mut(address).cast(),
                    msg_namelen: size_of::<libc::sockaddr_in>() as u32,
                    msg_iov: part,
                    msg_iovlen: 1,
                    msg_control: std::ptr::null_mut(),
                    msg_controllen: 0,
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

/// Sends batches.
pub(crate) struct Sender(Table);

impl Sender {
    pub(crate) fn new() -> Self {
        Self(Table::new())
    }

    /// Sends the datagrams of `batch` from place `from` on; returns how many went, at least one.
    /// An error is about the datagram at `from`.
    pub(crate) fn send(
        &mut self,
        socket: &OwnedFd,
        batch: &SendBatch,
        from: usize,
    ) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.clear();
        for datagram in &batch.datagrams()[from..] {
            let payload = batch.payload(datagram);
            let base = payload.as_ptr().cast_mut();
            table.push(base, payload.len(), to_sockaddr(datagram.endpoint));
        }
        table.link();
        let (headers, len) = (table.headers.as_mut_ptr(), table.headers.len() as u32);
        // SAFETY: `len` headers are there; their parts and addresses live in `table`, which does
        // not change during the call, and their bytes in `batch`, borrowed for as long. The
        // kernel only reads the bytes, so that casting away const is sound.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, len, libc::MSG_DONTWAIT as _) };
        checked(sent)
    }
}

/// Receives batches, each datagram into a slot of its own.
pub(crate) struct Receiver {
    table: Table,
    arena: Box<[u8]>,
}

/// One datagram that came in.
pub(crate) struct Received<'a> {
    pub(crate) source: SocketAddrV4,
    pub(crate) payload: &'a mut [u8],
    /// Whether the kernel had to cut it to the slot.
    pub(crate) truncated: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), arena: vec![0; MAX_DATAGRAMS * SLOT_STRIDE].into_boxed_slice() }
    }

    /// Receives what is there, without waiting; returns how many datagrams came.
    pub(crate) fn receive(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let table = &mut self.table;
        table.clear();
        for slot in self.arena.chunks_exact_mut(SLOT_STRIDE) {
            let unspecified = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
            table.push(slot.as_mut_ptr(), SLOT_LEN, to_sockaddr(unspecified));
        }
        table.link();
        let (headers, len) = (table.headers.as_mut_ptr(), table.headers.len() as u32);
        let (socket, flags, timeout) =
            (socket.as_raw_fd(), libc::MSG_DONTWAIT as _, std::ptr::null_mut());
        // SAFETY: `len` headers are there; their parts and addresses live in `table`, which does
        // not change during the call. Each part is a slot of its own in `arena`, which is
        // borrowed mutably for as long, and is longer than SLOT_LEN.
        let received = unsafe { libc::recvmmsg(socket, headers, len, flags, timeout) };
        checked(received)
    }

    /// Returns the datagram in `slot`, one of those that the last call received.
    pub(crate) fn received(&mut self, slot: usize) -> Received<'_> {
        let header = &self.table.headers[slot];
        let truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let (start, len) = (slot * SLOT_STRIDE, (header.msg_len as usize).min(SLOT_LEN));
        Received {
            source: from_sockaddr(&self.table.addresses[slot]),
            payload: &mut self.arena[start..start + len],
            truncated,
        }
    }

    /// Returns the first `len` bytes of `slot`.
    pub(crate) fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        &self.arena[slot * SLOT_STRIDE..][..len]
    }
}
