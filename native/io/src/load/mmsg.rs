//! Many datagrams per system call: sendmmsg(2), recvmmsg(2) on fixed slots.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams per call.
pub(super) const SLOTS: usize = 64;

/// Buffers of one length, for datagrams to or from a connected socket's peer.
pub(super) struct Slots {
    slot_len: usize,
    bytes: Vec<u8>,
    lens: [usize; SLOTS],
}

impl Slots {
    pub(super) fn new(slot_len: usize) -> Self {
        Self { slot_len, bytes: vec![0; slot_len * SLOTS], lens: [slot_len; SLOTS] }
    }

    /// The datagram of a slot; from then on it has `len` bytes, at most a slot's.
    pub(super) fn slot_mut(&mut self, place: usize, len: usize) -> &mut [u8] {
        self.lens[place] = len.min(self.slot_len);
        &mut self.bytes[place * self.slot_len..][..self.lens[place]]
    }

    /// What the last call received into a slot, cut to the slot, and its whole length.
    pub(super) fn received(&self, place: usize) -> (&[u8], usize) {
        let len = self.lens[place];
        (&self.bytes[place * self.slot_len..][..len.min(self.slot_len)], len)
    }

    /// Sends the first slots; returns how many went.
    pub(super) fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let lens = self.lens;
        let sent = self.call(&lens, |headers| {
            let count = count.min(SLOTS) as libc::c_uint;
            // SAFETY: `call` hands headers of which each points to one slot of `self.bytes`; the
            // kernel reads the slots and writes the headers during the call only.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) }
        });
        self.lens = lens;
        sent
    }

    /// Waits for a datagram, then takes what is there; returns how many slots are filled.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let whole = [self.slot_len; SLOTS];
        self.call(&whole, |headers| {
            // With MSG_TRUNC a datagram's whole length is told, however short the slot.
            let flags = (libc::MSG_WAITFORONE | libc::MSG_TRUNC) as _;
            let (base, no_timeout) = (headers.as_mut_ptr(), std::ptr::null_mut());
            // SAFETY: `call` hands headers of which each points to one slot of `self.bytes`, which
            // nothing else reads or writes during the call.
            unsafe { libc::recvmmsg(socket.as_raw_fd(), base, SLOTS as _, flags, no_timeout) }
        })
    }

    fn call(
        &mut self,
        lens: &[usize; SLOTS],
        kernel: impl FnOnce(&mut [libc::mmsghdr; SLOTS]) -> libc::c_int,
    ) -> io::Result<usize> {
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SLOTS];
        let slots = self.bytes.chunks_exact_mut(self.slot_len);
        for ((part, slot), len) in parts.iter_mut().zip(slots).zip(lens) {
            let len = (*len).min(slot.len());
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: len };
        }
        let mut headers = parts.each_mut().map(|part| libc::mmsghdr {
            msg_hdr: libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: part,
                msg_iovlen: 1,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
            msg_len: 0,
        });
        let result = kernel(&mut headers);
        let count = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        for (len, header) in self.lens.iter_mut().zip(&headers[..count]) {
            *len = header.msg_len as usize;
        }
        Ok(count)
    }
}
