//! Many small datagrams per system call: sendmmsg(2), recvmmsg(2) on fixed slots.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams per call.
pub(crate) const SLOTS: usize = 64;

/// `SLOTS` buffers of one length, for datagrams to or from a socket's peer.
pub(crate) struct Slots {
    slot_len: usize,
    bytes: Vec<u8>,
    lens: [usize; SLOTS],
}

impl Slots {
    pub(crate) fn new(slot_len: usize) -> Self {
        Self { slot_len, bytes: vec![0; slot_len * SLOTS], lens: [0; SLOTS] }
    }

    pub(crate) fn slot_mut(&mut self, place: usize) -> &mut [u8] {
        &mut self.bytes[place * self.slot_len..][..self.slot_len]
    }

    /// What the last call received into a slot, cut to the slot.
    pub(crate) fn received(&self, place: usize) -> &[u8] {
        &self.bytes[place * self.slot_len..][..self.lens[place].min(self.slot_len)]
    }

    /// Sends every slot whole; returns how many went.
    pub(crate) fn send(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.call(|headers| {
            // SAFETY: `call` hands headers of which each points to one slot of `self.bytes`; the
            // kernel reads the slots and writes the headers during the call only.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), SLOTS as _, 0) }
        })
    }

    /// Waits for a datagram, then takes what is there; returns how many slots are filled.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.call(|headers| {
            let (flags, no_timeout) = (libc::MSG_WAITFORONE as _, std::ptr::null_mut());
            let base = headers.as_mut_ptr();
            // SAFETY: `call` hands headers of which each points to one slot of `self.bytes`, which
            // nothing else reads or writes during the call.
            unsafe { libc::recvmmsg(socket.as_raw_fd(), base, SLOTS as _, flags, no_timeout) }
        })
    }

    fn call(
        &mut self,
        kernel: impl FnOnce(&mut [libc::mmsghdr; SLOTS]) -> libc::c_int,
    ) -> io::Result<usize> {
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SLOTS];
        for (part, slot) in parts.iter_mut().zip(self.bytes.chunks_exact_mut(self.slot_len)) {
            *part = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
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
