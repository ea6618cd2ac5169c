//! One queue of a TUN device: a virtio_net_hdr in front of every packet.
//!
//! Path of a packet: TUN → **`tun`** → `core::outbound`; `core::inbound` → **`tun`** → TUN.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::io::{Errno, readv, writev};
use tunneld_core::batch::MAX_PACKET_LEN;
use tunneld_wire::virtio_net_hdr::Header;

/// A queue, and the buffer its packets are read into.
pub(crate) struct TunReader<'a> {
    queue: &'a OwnedFd,
    buffer: Box<[u8]>,
}

impl<'a> TunReader<'a> {
    pub(crate) fn new(queue: &'a OwnedFd) -> Self {
        Self { queue, buffer: vec![0; MAX_PACKET_LEN].into_boxed_slice() }
    }

    /// Reads one packet. One without a whole header in front comes out empty.
    pub(crate) fn read(&mut self) -> Result<(Header, &[u8]), Errno> {
        let mut header = [0; Header::LEN];
        let len = loop {
            let parts = &mut [IoSliceMut::new(&mut header), IoSliceMut::new(&mut self.buffer)];
            match readv(self.queue, parts) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        Ok((Header::parse(header), &self.buffer[..len.saturating_sub(Header::LEN)]))
    }
}

/// Writes one packet to the queue.
pub(crate) fn write(queue: &OwnedFd, header: Header, packet: &[u8]) -> Result<(), Errno> {
    let header = header.emit();
    loop {
        match writev(queue, &[IoSlice::new(&header), IoSlice::new(packet)]) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}
