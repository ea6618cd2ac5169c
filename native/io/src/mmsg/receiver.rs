//! Receives a batch of datagrams, or of trains that the kernel made of them.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use tunneld_wire::ecn::Ecn;

use super::{Address, checked};

/// Most messages in a batch. The more come together, the more can be joined: these are three whole
/// super-packets of TCP at an MTU of 1500, of 46 segments each. With 64 every second super-packet had
/// 18, and one stream was slower by a tenth, in both measurements on a busy machine that compared them.
const MAX_MESSAGES: usize = 138;

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
struct Control([u8; 128]);

/// What the kernel says about a message beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Remarks {
    /// Length of each datagram in it but the last, where the kernel joined several.
    segment_len: Option<usize>,
    /// The congestion mark of its datagrams.
    ecn: Ecn,
}

impl Control {
    const EMPTY: Self = Self([0; 128]);
    const HEADER_LEN: usize = size_of::<libc::cmsghdr>();

    /// Reads the first `used` bytes.
    fn read(&self, used: usize) -> Remarks {
        let mut remarks = Remarks::default();
        let mut rest = self.0.get(..used).unwrap_or_default();
        while let Some((header, data)) = rest.split_first_chunk::<{ Self::HEADER_LEN }>() {
            let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, k0, k1, k2, k3] = *header;
            let level = i32::from_ne_bytes([v0, v1, v2, v3]);
            let kind = i32::from_ne_bytes([k0, k1, k2, k3]);
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let len = data.first_chunk().map(|len| i32::from_ne_bytes(*len));
                    remarks.segment_len = len.and_then(|len| usize::try_from(len).ok());
                }
                // One byte, and a number of four, as recv(2) of either family has it.
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    remarks.ecn = data.first().map_or(Ecn::NotEct, |class| Ecn::of(*class));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.first_chunk().map_or(0, |class| i32::from_ne_bytes(*class));
                    remarks.ecn = Ecn::of(class as u8);
                }
                _ => {}
            }
            let len = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]).max(Self::HEADER_LEN);
            let next = len.checked_next_multiple_of(8).and_then(|len| rest.get(len..));
            rest = next.unwrap_or_default();
        }
        remarks
    }
}

/// Receives batches, each message into a slot of its own.
pub(crate) struct Receiver {
    headers: Vec<libc::mmsghdr>,
    parts: Vec<libc::iovec>,
    /// Whoever sent each of the messages that the last call received; empty behind them.
    addresses: Box<[Address]>,
    /// What the kernel said of each. Never emptied: how much of it is new stands in the header.
    controls: Box<[Control]>,
    arena: Box<[u8]>,
    /// How many messages are asked for next.
    limit: usize,
    /// How many the last call received.
    count: usize,
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
    /// The congestion mark of all datagrams in it.
    pub(crate) ecn: Ecn,
    /// Whether the kernel had to cut it to the slot.
    pub(crate) truncated: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        let empty = std::iter::repeat_with(|| Address::EMPTY).take(MAX_MESSAGES);
        Self {
            headers: Vec::with_capacity(MAX_MESSAGES),
            parts: Vec::with_capacity(MAX_MESSAGES),
            addresses: empty.collect(),
            controls: vec![Control::EMPTY; MAX_MESSAGES].into_boxed_slice(),
            arena: vec![0; MAX_MESSAGES * SLOT_STRIDE].into_boxed_slice(),
            limit: MAX_MESSAGES,
            count: 0,
        }
    }

    /// Receives what is there, without waiting.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> Result<Batch, Errno> {
        self.addresses[..self.count].fill_with(|| Address::EMPTY);
        self.count = 0;
        self.write_headers();
        let (headers, len) = (self.headers.as_mut_ptr(), self.headers.len() as u32);
        let (socket, flags, timeout) =
            (socket.as_raw_fd(), libc::MSG_DONTWAIT as _, std::ptr::null_mut());
        // SAFETY: `len` headers are there; their parts, addresses and controls live in fields that do
        // not change during the call. Each part is a slot of its own in `arena`, which is borrowed
        // mutably for as long, and is longer than SLOT_LEN.
        let received = unsafe { libc::recvmmsg(socket, headers, len, flags, timeout) };
        self.count = checked(received)?;
        let count = self.count;
        let full = count == self.limit;
        let bytes: usize = self.headers[..count].iter().map(|row| row.msg_len as usize).sum();
        // By what just came: single datagrams are far below an eighth of a slot.
        self.limit = if bytes > count * SLOT_LEN / 8 { MAX_TRAINS } else { MAX_MESSAGES };
        Ok(Batch { count, full })
    }

    /// Writes as many headers as messages are asked for, over all the rest. Nothing else is touched:
    /// with all rooms emptied, most of a call for few messages went into that.
    fn write_headers(&mut self) {
        self.headers.clear();
        self.parts.clear();
        let slots = self.arena.chunks_exact_mut(SLOT_STRIDE).take(self.limit);
        self.parts.extend(
            slots.map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT_LEN }),
        );
        let rows = self.parts.iter_mut().zip(&mut self.addresses).zip(&mut self.controls);
        self.headers.extend(rows.map(|((part, address), control)| libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: std::ptr::from_mut(address).cast(),
                msg_namelen: Address::LEN,
                msg_iov: part,
                msg_iovlen: 1,
                msg_control: std::ptr::from_mut(control).cast(),
                msg_controllen: size_of::<Control>(),
                msg_flags: 0,
            },
            msg_len: 0,
        }));
    }

    /// Returns message `number`, one of those that the last call received.
    pub(crate) fn received(&self, number: usize) -> Received {
        let header = &self.headers[number];
        let (start, len) = (number * SLOT_STRIDE, (header.msg_len as usize).min(SLOT_LEN));
        let Remarks { segment_len, ecn } =
            self.controls[number].read(header.msg_hdr.msg_controllen);
        Received {
            source: self.addresses[number].read(),
            place: start..start + len,
            segment_len,
            ecn,
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
        bytes.resize(128, 0xff);
        (Control(bytes.try_into().unwrap()), used)
    }

    fn remarks(messages: &[(i32, i32, &[u8])]) -> Remarks {
        let (control, used) = control(messages);
        control.read(used)
    }

    #[test]
    fn segment_length_and_mark_are_found_in_any_order() {
        let length = 1_400i32.to_ne_bytes();
        let gro = (libc::SOL_UDP, libc::UDP_GRO, &length[..]);
        let tos = (libc::SOL_IP, libc::IP_TOS, &[0xbb][..]);
        let class = 0xbbi32.to_ne_bytes();
        let class = (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class[..]);
        let other = (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &length[..]);
        let found = |segment_len, ecn| Remarks { segment_len, ecn };
        assert_eq!(remarks(&[gro]), found(Some(1_400), Ecn::NotEct));
        for mark in [tos, class] {
            assert_eq!(remarks(&[mark]), found(None, Ecn::Ce));
            assert_eq!(remarks(&[mark, other, gro]), found(Some(1_400), Ecn::Ce));
            assert_eq!(remarks(&[other, gro, mark]), found(Some(1_400), Ecn::Ce));
        }
        assert_eq!(remarks(&[(libc::SOL_IP, libc::IP_TOS, &[2])]), found(None, Ecn::Ect0));
    }

    #[test]
    fn what_is_not_there_or_cut_off_says_nothing() {
        assert_eq!(remarks(&[]), Remarks::default());
        let (cut, used) = control(&[(libc::SOL_UDP, libc::UDP_GRO, &[1, 2])]);
        assert_eq!(cut.read(used - 6), Remarks::default());
        assert_eq!(Control::EMPTY.read(128), Remarks::default());
    }
}
