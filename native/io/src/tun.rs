//! One queue of a TUN device: a virtio_net_hdr in front of every packet.
//!
//! Path of a packet: TUN → **`tun`** → `core::outbound`; `core::inbound` → **`tun`** → TUN.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, read, writev};
use tunneld_core::batch::MAX_PACKET_LEN;
use tunneld_core::coalescing::Headers;
use tunneld_core::segmentation::MAX_SEGMENTS;
use tunneld_wire::virtio_net_hdr::Header;

/// A queue, and the buffer its packets are read into, each behind its header.
pub(crate) struct TunReader<'a> {
    queue: &'a OwnedFd,
    buffer: Box<[u8]>,
}

impl<'a> TunReader<'a> {
    pub(crate) fn new(queue: &'a OwnedFd) -> Self {
        let buffer = vec![0; Header::LEN + MAX_PACKET_LEN].into_boxed_slice();
        Self { queue, buffer }
    }

    /// Reads one packet. One without a whole header in front comes out empty.
    ///
    /// Header and packet are read into one piece: for small packets the kernel's work on a second
    /// piece shows.
    pub(crate) fn read(&mut self) -> Result<(Header, &[u8]), Errno> {
        let len = loop {
            match read(self.queue, &mut self.buffer[..]) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let (header, packet) = self.buffer.split_at(Header::LEN);
        let header = header.first_chunk().map_or_else(Header::default, |raw| Header::parse(*raw));
        Ok((header, &packet[..len.saturating_sub(Header::LEN)]))
    }
}

/// What one write takes: a header, and the pieces of a packet or super-packet.
pub(crate) struct Packet<'a> {
    vnet: [u8; Header::LEN],
    pieces: [&'a [u8]; MAX_PIECES],
    used: usize,
}

/// The headers of a super-packet, and its payloads.
const MAX_PIECES: usize = 1 + MAX_SEGMENTS;

impl<'a> Packet<'a> {
    /// Returns a packet as it is, with what the device must be told about it.
    pub(crate) fn single(bytes: &'a [u8], vnet: Header) -> Self {
        let mut pieces = [&[][..]; MAX_PIECES];
        pieces[0] = bytes;
        Self { vnet: vnet.emit(), pieces, used: 1 }
    }

    /// Returns a super-packet of `headers` and of payloads, at most as many as may be joined.
    pub(crate) fn joined(headers: &'a Headers, payloads: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut packet = Self::single(headers.as_bytes(), headers.vnet);
        for (piece, payload) in packet.pieces[1..].iter_mut().zip(payloads) {
            *piece = payload;
            packet.used += 1;
        }
        packet
    }

    /// Writes it to `queue`.
    pub(crate) fn write(&self, queue: &OwnedFd) -> Result<(), Errno> {
        let mut parts = [IoSlice::new(&[]); 1 + MAX_PIECES];
        parts[0] = IoSlice::new(&self.vnet);
        for (part, piece) in parts[1..].iter_mut().zip(&self.pieces[..self.used]) {
            *part = IoSlice::new(piece);
        }
        loop {
            match writev(queue, &parts[..1 + self.used]) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }
}
