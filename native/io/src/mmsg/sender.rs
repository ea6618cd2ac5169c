//! Sends a batch: whole trains for the kernel to cut, or datagram by datagram.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::adjacency::OuterDf;
use tunneld_core::batch::{MAX_TRAINS, Queue};

use super::{Address, Table, checked};
use crate::path_mtu::Discovery;

/// The control message that tells the kernel where to cut. Source: cmsg(3), udp(7).
#[repr(C)]
struct Segment {
    header: libc::cmsghdr,
    len: u16,
    /// The kernel wants the next one, were there any, to be aligned.
    padding: [u8; 6],
}

impl Segment {
    const fn new(len: usize) -> Self {
        Self {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            len: len as u16,
            padding: [0; 6],
        }
    }
}

/// Sends batches.
pub(crate) struct Sender(Table<Segment>);

impl Sender {
    pub(crate) fn new() -> Self {
        Self(Table::new(MAX_TRAINS))
    }

    /// Sends the trains of `queue` from `first` on, as many as leave alike; returns how many went,
    /// at least one. An error is about the train `first`.
    pub(crate) fn send_trains(
        &mut self,
        socket: &OwnedFd,
        queue: &Queue,
        first: usize,
    ) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.clear();
        let df = queue.trains()[first].passage.df;
        for train in queue.trains()[first..].iter().take_while(|train| train.passage.df == df) {
            let pieces = queue.pieces(train).map(part);
            let control = (train.count > 1).then(|| Segment::new(train.segment_len));
            let address = Address::of(train.endpoint);
            table.push(pieces, address, control);
        }
        self.send_as(df, socket, queue)
    }

    /// Sends the datagrams of `queue` one by one, from datagram `first` of train `train` on, as many
    /// as leave alike and at most `limit` of them; returns how many went, at least one. An error is
    /// about the first.
    pub(crate) fn send_datagrams(
        &mut self,
        socket: &OwnedFd,
        queue: &Queue,
        (train, first): (usize, usize),
        limit: usize,
    ) -> Result<usize, Errno> {
        let df = queue.trains()[train].passage.df;
        self.fill(queue, (train, first), df, limit);
        self.send_as(df, socket, queue)
    }

    /// Sends one datagram once more, in fragments if it must be.
    pub(crate) fn send_in_fragments(
        &mut self,
        socket: &OwnedFd,
        queue: &Queue,
        place: (usize, usize),
    ) -> Result<usize, Errno> {
        self.fill(queue, place, queue.trains()[place.0].passage.df, 1);
        self.send_as(OuterDf::Clear, socket, queue)
    }

    fn fill(&mut self, queue: &Queue, (train, first): (usize, usize), df: OuterDf, limit: usize) {
        let table = &mut self.0;
        table.clear();
        let datagrams = queue.datagrams_from(train, first).take_while(|datagram| datagram.df == df);
        for datagram in datagrams.take(limit.min(MAX_TRAINS)) {
            let (payload, address) = (datagram.payload, Address::of(datagram.endpoint));
            table.push(std::iter::once(part(payload)), address, None);
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
