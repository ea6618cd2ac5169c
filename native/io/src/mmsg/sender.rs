//! Sends a batch: whole trains for the kernel to cut, or datagram by datagram.

use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::adjacency::OuterDf;
use tunneld_core::batch::{MAX_TRAINS, Queue};

use super::{Address, checked};
use crate::path_mtu::Discovery;

/// Room for both control messages that there may be.
const ROOM: usize = 64;

/// Control messages, aligned as cmsg(3) asks for.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Messages {
    bytes: [u8; ROOM],
    used: usize,
}

impl Messages {
    const HEADER_LEN: usize = size_of::<libc::cmsghdr>();
    const NONE: Self = Self { bytes: [0; ROOM], used: 0 };

    /// Adds a message. Source: cmsg(3): a header, the data, and padding to the next word.
    fn with(mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Self {
        let rest = &mut self.bytes[self.used..];
        rest[..8].copy_from_slice(&(Self::HEADER_LEN + data.len()).to_ne_bytes());
        rest[8..12].copy_from_slice(&level.to_ne_bytes());
        rest[12..16].copy_from_slice(&kind.to_ne_bytes());
        rest[Self::HEADER_LEN..][..data.len()].copy_from_slice(data);
        self.used += (Self::HEADER_LEN + data.len()).next_multiple_of(8);
        self
    }
}

/// The address that datagrams come from, told with each of them: for sockets bound elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Source(Messages);

impl Source {
    /// Source: ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                Messages::NONE.with(libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
            }
            IpAddr::V6(address) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                Messages::NONE.with(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
            }
        })
    }
}

/// A socket, and what must be said of the source with it.
#[derive(Clone, Copy)]
pub(crate) struct Outlet<'a> {
    pub(crate) socket: &'a OwnedFd,
    pub(crate) source: Option<&'a Source>,
}

/// The kernel's view of some messages, each with control messages or none.
struct Table {
    headers: Vec<libc::mmsghdr>,
    /// Those of all messages, one message's behind the other's.
    parts: Vec<libc::iovec>,
    /// Number of parts of each message.
    counts: Vec<usize>,
    addresses: Vec<(Address, libc::socklen_t)>,
    controls: Vec<Option<Messages>>,
}

impl Table {
    fn new(capacity: usize) -> Self {
        Self {
            headers: Vec::with_capacity(capacity),
            parts: Vec::with_capacity(capacity),
            counts: Vec::with_capacity(capacity),
            addresses: Vec::with_capacity(capacity),
            controls: Vec::with_capacity(capacity),
        }
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.parts.clear();
        self.counts.clear();
        self.addresses.clear();
        self.controls.clear();
    }

    /// Adds a message of some parts, each as its start and length.
    fn push(
        &mut self,
        parts: impl Iterator<Item = (*mut u8, usize)>,
        address: (Address, libc::socklen_t),
        control: Option<Messages>,
    ) {
        let before = self.parts.len();
        self.parts
            .extend(parts.map(|(base, len)| libc::iovec { iov_base: base.cast(), iov_len: len }));
        self.counts.push(self.parts.len() - before);
        self.addresses.push(address);
        self.controls.push(control);
    }

    /// Writes the headers over all the rest. Nothing may grow between this and the call.
    fn link(&mut self) {
        let mut parts = &mut self.parts[..];
        let rows = self.counts.iter().zip(&mut self.addresses).zip(&mut self.controls);
        for ((count, (address, address_len)), control) in rows {
            let (own, behind) = parts.split_at_mut(*count);
            parts = behind;
            let (msg_control, msg_controllen) = match control {
                Some(control) => {
                    let used = control.used;
                    (std::ptr::from_mut(control).cast(), used)
                }
                None => (std::ptr::null_mut(), 0),
            };
            self.headers.push(libc::mmsghdr {
                msg_hdr: libc::msghdr {
                    msg_name: std::ptr::from_mut(address).cast(),
                    msg_namelen: *address_len,
                    msg_iov: own.as_mut_ptr(),
                    msg_iovlen: own.len(),
                    msg_control,
                    msg_controllen,
                    msg_flags: 0,
                },
                msg_len: 0,
            });
        }
    }
}

/// Sends batches.
pub(crate) struct Sender(Table);

impl Sender {
    pub(crate) fn new() -> Self {
        Self(Table::new(MAX_TRAINS))
    }

    /// Sends some trains of `queue`, as many as leave alike; returns how many went, at least one. An
    /// error is about the first of them.
    pub(crate) fn send_trains(
        &mut self,
        outlet: Outlet<'_>,
        queue: &Queue,
        which: &Range<usize>,
    ) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.clear();
        let source = outlet.source.map(|source| source.0);
        let trains = &queue.trains()[which.clone()];
        let df = trains.first().map_or(OuterDf::Kernel, |train| train.passage.df);
        for train in trains.iter().take_while(|train| train.passage.df == df) {
            let pieces = queue.pieces(train).map(part);
            let messages = if train.count > 1 {
                let len = (train.segment_len as u16).to_ne_bytes();
                let messages = source.unwrap_or(Messages::NONE);
                Some(messages.with(libc::SOL_UDP, libc::UDP_SEGMENT, &len))
            } else {
                source
            };
            table.push(pieces, Address::of(train.endpoint), messages);
        }
        self.send_as(df, outlet.socket, queue)
    }

    /// Sends the datagrams of `queue` one by one, from datagram `first` of train `train` on, as many
    /// as leave alike and at most `limit` of them; returns how many went, at least one. An error is
    /// about the first.
    pub(crate) fn send_datagrams(
        &mut self,
        outlet: Outlet<'_>,
        queue: &Queue,
        (train, first): (usize, usize),
        limit: usize,
    ) -> Result<usize, Errno> {
        let df = queue.trains()[train].passage.df;
        self.fill(outlet, queue, (train, first), df, limit);
        self.send_as(df, outlet.socket, queue)
    }

    /// Sends one datagram once more, as `df` says.
    pub(crate) fn send_once_as(
        &mut self,
        df: OuterDf,
        outlet: Outlet<'_>,
        queue: &Queue,
        place: (usize, usize),
    ) -> Result<usize, Errno> {
        self.fill(outlet, queue, place, queue.trains()[place.0].passage.df, 1);
        self.send_as(df, outlet.socket, queue)
    }

    fn fill(
        &mut self,
        outlet: Outlet<'_>,
        queue: &Queue,
        (train, first): (usize, usize),
        df: OuterDf,
        limit: usize,
    ) {
        let table = &mut self.0;
        table.clear();
        let source = outlet.source.map(|source| source.0);
        let datagrams = queue.datagrams_from(train, first).take_while(|datagram| datagram.df == df);
        for datagram in datagrams.take(limit.min(MAX_TRAINS)) {
            let (payload, address) = (datagram.payload, Address::of(datagram.endpoint));
            table.push(std::iter::once(part(payload)), address, source);
        }
    }

    /// Sends what the table holds as `df` says.
    fn send_as(&mut self, df: OuterDf, socket: &OwnedFd, queue: &Queue) -> Result<usize, Errno> {
        if df == OuterDf::Kernel {
            return self.send(socket, queue);
        }
        let is_ipv4 = queue.trains().first().is_some_and(|train| train.endpoint.is_ipv4());
        let discovery = Discovery { socket, is_ipv4 };
        discovery.set(df)?;
        let sent = self.send(socket, queue);
        discovery.set(OuterDf::Kernel)?;
        sent
    }

    /// Sends what the table holds, whose parts point into `_queue`.
    fn send(&mut self, socket: &OwnedFd, _queue: &Queue) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.link();
        let (headers, len) = (table.headers.as_mut_ptr(), table.headers.len() as u32);
        // SAFETY: `len` headers are there; their parts, addresses and controls live in `table`,
        // which does not change during the call, and their bytes in the queue, borrowed for as
        // long. The kernel only reads the bytes, so that casting away const is sound.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, len, libc::MSG_DONTWAIT as _) };
        checked(sent)
    }
}

/// Returns bytes as part of a message. The kernel only reads them, so that they lose const here.
const fn part(bytes: &[u8]) -> (*mut u8, usize) {
    (bytes.as_ptr().cast_mut(), bytes.len())
}
