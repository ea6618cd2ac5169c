//! Receives a batch of datagrams, or of trains that the kernel made of them.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::{Address, Table, checked};

/// Most messages in a batch. The more come together, the more can be joined.
const MAX_MESSAGES: usize = 64;

/// Most messages in a batch where they are trains: more of up to 64 KiB each would push one
/// another out of the second-level cache before they are verified and written. With 16, TCP of
/// four streams took 8 % more CPU time, and any TCP 10 % more beside programs that use the caches
/// too; one stream on an idle machine saw no difference.
const MAX_TRAINS: usize = 4;

/// Takes every UDP payload whole: at most 65,507 bytes over IPv4, 65,527 over IPv6.
const SLOT_LEN: usize = 65_536;
/// The rest keeps the starts of the slots out of one set of the cache.
const SLOT_STRIDE: usize = SLOT_LEN + 1_088;

/// Room for control messages, aligned as cmsg(3) asks for.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

impl Control {
    const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

    /// Returns the segment length, where the kernel says that it joined datagrams.
    fn segment_len(&self, used: usize) -> Option<usize> {
        let mut rest = self.0.get(..used)?;
        loop {
            let (len, after) = rest.split_first_chunk::<8>()?;
            let (level, after) = after.split_first_chunk::<4>()?;
            let (kind, data) = after.split_first_chunk::<4>()?;
            let is_gro = i32::from_ne_bytes(*level) == libc::SOL_UDP
                && i32::from_ne_bytes(*kind) == libc::UDP_GRO;
            if is_gro {
                return usize::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok();
            }
            let len = usize::from_ne_bytes(*len).max(Self::HEADER_LEN);
            rest = rest.get(len.checked_next_multiple_of(8)?..)?;
        }
    }
}

/// Receives batches, each message into a slot of its own.
pub(crate) struct Receiver {
    table: Table<Control>,
    arena: Box<[u8]>,
    /// How many messages are asked for next.
    limit: usize,
}

/// What a call received.
pub(crate) struct Batch {
    /// Number of messages.
    pub(crate) count: usize,
    /// Whether there may be more.
    pub(crate) full: bool,
}

/// One message that came in.
pub(crate) struct Received {
    pub(crate) source: SocketAddr,
    /// Where its bytes lie in the memory.
    pub(crate) place: Range<usize>,
    /// Length of each datagram in it but the last, where the kernel joined several.
    pub(crate) segment_len: Option<usize>,
    /// Whether the kernel had to cut it to the slot.
    pub(crate) truncated: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let arena = vec![0; MAX_MESSAGES * SLOT_STRIDE].into_boxed_slice();
        Self { table: Table::new(MAX_MESSAGES), arena, limit: MAX_MESSAGES }
    }

    /// Receives what is there, without waiting.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Batch, Errno> {
        let table = &mut self.table;
        table.clear();
        for slot in self.arena.chunks_exact_mut(SLOT_STRIDE).take(self.limit) {
            let address = (Address::EMPTY, Address::LEN);
            let part = std::iter::once((slot.as_mut_ptr(), SLOT_LEN));
            table.push(part, address, Some(Control([0; 64])));
        }
        table.link();
        let (headers, len) = (table.headers.as_mut_ptr(), table.headers.len() as u32);
        let (socket, flags, timeout) =
            (socket.as_raw_fd(), libc::MSG_DONTWAIT as _, std::ptr::null_mut());
        // SAFETY: `len` headers are there; their parts, addresses and controls live in `table`,
        // which does not change during the call. Each part is a slot of its own in `arena`, which
        // is borrowed mutably for as long, and is longer than SLOT_LEN.
        let received = unsafe { libc::recvmmsg(socket, headers, len, flags, timeout) };
        let count = checked(received)?;
        let full = count == self.limit;
        let bytes: usize = self.table.headers[..count].iter().map(|row| row.msg_len as usize).sum();
        // By what just came: single datagrams are far below an eighth of a slot.
        self.limit = if bytes > count * SLOT_LEN / 8 { MAX_TRAINS } else { MAX_MESSAGES };
        Ok(Batch { count, full })
    }

    /// Returns message `number`, one of those that the last call received.
    pub(crate) fn received(&self, number: usize) -> Received {
        let header = &self.table.headers[number];
        let (start, len) = (number * SLOT_STRIDE, (header.msg_len as usize).min(SLOT_LEN));
        let control = self.table.controls[number].as_ref();
        Received {
            source: self.table.addresses[number].0.read(),
            place: start..start + len,
            segment_len: control
                .and_then(|control| control.segment_len(header.msg_hdr.msg_controllen)),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        }
    }

    /// Returns the memory that the messages lie in.
    pub(crate) fn memory(&self) -> &[u8] {
        &self.arena
    }

    /// Returns the memory that the messages lie in, to be changed in place.
    pub(crate) fn memory_mut(&mut self) -> &mut [u8] {
        &mut self.arena
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(messages: &[(i32, i32, &[u8])]) -> (Control, usize) {
        let mut bytes = Vec::new();
        for (level, kind, data) in messages {
            bytes.extend((Control::HEADER_LEN + data.len()).to_ne_bytes());
            bytes.extend(level.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let used = bytes.len();
        bytes.resize(64, 0xff);
        (Control(bytes.try_into().unwrap()), used)
    }

    #[test]
    fn the_segment_length_is_found_among_other_messages() {
        let length = 1_400i32.to_ne_bytes();
        let gro = (libc::SOL_UDP, libc::UDP_GRO, &length[..]);
        let (alone, used) = control(&[gro]);
        assert_eq!(alone.segment_len(used), Some(1_400));
        let (second, used) = control(&[(libc::SOL_IP, libc::IP_TOS, &[1]), gro]);
        assert_eq!(second.segment_len(used), Some(1_400));
    }

    #[test]
    fn without_the_message_there_is_no_segment_length() {
        let (other, used) = control(&[(libc::SOL_IP, libc::IP_TOS, &[1])]);
        assert_eq!(other.segment_len(used), None);
        assert_eq!(other.segment_len(0), None);
        let (cut, used) = control(&[(libc::SOL_UDP, libc::UDP_GRO, &[1, 2])]);
        assert_eq!(cut.segment_len(used - 6), None);
        assert_eq!(Control([0; 64]).segment_len(64), None);
    }
}
