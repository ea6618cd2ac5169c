//! Packets that wait for keys, on their way from a data thread to the one that shakes hands.
//!
//! Path of a packet: TUN → `outbound` → **`waiting`** → `io`, which keeps it until there are keys.
//! The room is made once. A reader takes it over whole and leaves the one it has emptied, so that
//! neither side waits for the other to copy.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tunneld_wire::virtio_net_hdr::Header as VnetHeader;

use crate::sad::Protected;

/// Bytes of packets in a room: two of the largest, or as many of usual size as a batch has.
const BYTES: usize = 128 << 10;
/// Packets in a room.
const PACKETS: usize = 128;

/// A packet as the device handed it over, and whom it is for.
#[derive(Debug)]
pub struct Waiter<'a> {
    /// The peer that has no keys yet.
    pub peer: &'a Arc<Protected>,
    /// What the device said of the packet.
    pub vnet: VnetHeader,
    /// The packet.
    pub packet: &'a [u8],
}

/// Packets in order, with their bytes in one piece.
pub struct Room {
    bytes: Box<[u8]>,
    used: usize,
    packets: Vec<(Arc<Protected>, VnetHeader, usize)>,
}

impl Default for Room {
    fn default() -> Self {
        let bytes = vec![0; BYTES].into_boxed_slice();
        Self { bytes, used: 0, packets: Vec::with_capacity(PACKETS) }
    }
}

impl Room {
    /// Copies a packet; `false`: there is no room for it.
    fn push(&mut self, peer: &Arc<Protected>, vnet: VnetHeader, packet: &[u8]) -> bool {
        let end = self.used + packet.len();
        let Some(place) = self.bytes.get_mut(self.used..end) else { return false };
        if self.packets.len() == PACKETS {
            return false;
        }
        place.copy_from_slice(packet);
        self.used = end;
        self.packets.push((Arc::clone(peer), vnet, end));
        true
    }

    /// Returns the packets, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Waiter<'_>> {
        self.packets.iter().scan(0, |start, (peer, vnet, end)| {
            let packet = &self.bytes[std::mem::replace(start, *end)..*end];
            Some(Waiter { peer, vnet: *vnet, packet })
        })
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.used = 0;
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({} packets, {} bytes)", self.packets.len(), self.used)
    }
}

/// Where one worker leaves packets.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Room>);

impl Waiting {
    /// Leaves a copy of a packet; `false`: there is no room.
    pub fn push(&self, peer: &Arc<Protected>, vnet: VnetHeader, packet: &[u8]) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(peer, vnet, packet)
    }

    /// Takes over what is there, and leaves `room`, emptied. Neither is copied.
    pub fn take(&self, room: &mut Room) {
        room.clear();
        std::mem::swap(room, &mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::sad::Sad;

    fn lens(room: &Room) -> Vec<(NonZeroU64, usize)> {
        room.iter().map(|waiter| (waiter.peer.number(), waiter.packet.len())).collect()
    }

    #[test]
    fn packets_come_out_as_they_were_left_and_once() {
        let sad = Sad::new(1);
        let (b, c) = (sad.peer([2; 32]), sad.peer([3; 32]));
        let (waiting, mut room) = (Waiting::default(), Room::default());
        let vnet = VnetHeader { gso_size: 1_400, ..VnetHeader::default() };
        assert!(waiting.push(&b, vnet, &[1; 100]));
        assert!(waiting.push(&c, VnetHeader::default(), &[2; 65_535]));
        assert!(waiting.push(&b, VnetHeader::default(), &[]));
        waiting.take(&mut room);
        let seen: Vec<_> =
            room.iter().map(|one| (one.vnet.gso_size, one.packet.to_vec())).collect();
        assert_eq!(seen, [(1_400, vec![1; 100]), (0, vec![2; 65_535]), (0, vec![])]);
        assert_eq!(lens(&room), [(b.number(), 100), (c.number(), 65_535), (b.number(), 0)]);
        waiting.take(&mut room);
        assert_eq!(room.iter().count(), 0, "and what was taken is not left again");
    }

    #[test]
    fn a_room_has_so_many_packets_and_bytes_and_room_again_when_it_was_taken() {
        let peer = Sad::new(1).peer([2; 32]);
        let (waiting, mut room) = (Waiting::default(), Room::default());
        let taken = |len| {
            let packet = vec![7; len];
            (0..200).filter(|_| waiting.push(&peer, VnetHeader::default(), &packet)).count()
        };
        assert_eq!(taken(100), 128);
        waiting.take(&mut room);
        assert_eq!(taken(60_000), 2, "of 131,072 bytes");
        assert_eq!(taken(11_072), 1, "to the last byte");
        waiting.take(&mut room);
        assert_eq!((room.iter().count(), taken(100)), (3, 128));
    }
}
