//! Sends a batch: whole trains for the kernel to cut, or datagram by datagram.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use tunneld_core::batch::{MAX_TRAINS, Queue};

use super::{Address, Table, checked};

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

    /// Sends the trains of `queue` from `first` on; returns how many went, at least one. An error
    /// is about the train `first`.
    pub(crate) fn send_trains(
        &mut self,
        socket: &OwnedFd,
        queue: &Queue,
        first: usize,
    ) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.clear();
        for train in &queue.trains()[first..] {
            let pieces = queue.pieces(train).map(part);
            let control = (train.count > 1).then(|| Segment::new(train.segment_len));
            let address = Address::of(train.endpoint);
            table.push(pieces, address, control);
        }
        self.send(socket, queue)
    }

    /// Sends the datagrams of `queue` one by one, from datagram `first` of train `train` on and
    /// at most `limit` of them; returns how many went, at least one. An error is about the first.
    pub(crate) fn send_datagrams(
        &mut self,
        socket: &OwnedFd,
        queue: &Queue,
        (train, first): (usize, usize),
        limit: usize,
    ) -> Result<usize, Errno> {
        let table = &mut self.0;
        table.clear();
        for datagram in queue.datagrams_from(train, first).take(limit.min(MAX_TRAINS)) {
            let (payload, address) = (datagram.payload, Address::of(datagram.endpoint));
            table.push(std::iter::once(part(payload)), address, None);
        }
        self.send(socket, queue)
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
