//! The packets that wait for an SA, as numbers: the packets themselves are the caller's.

use std::collections::VecDeque;

/// Packets of one peer that may wait.
pub const MOST_PACKETS: usize = 64;
/// Bytes of one peer that may wait.
pub const MOST_BYTES: usize = 128 << 10;
/// Bytes of all peers that may wait.
pub const MOST_BYTES_IN_ALL: usize = 8 << 20;

/// Lengths of the packets that wait for one peer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    lengths: VecDeque<usize>,
    bytes: usize,
}

impl Waiting {
    /// Makes room for a packet and lets it wait. Returns how many of the oldest have to go, or
    /// `None` if the packet has no room even then: others hold it, and nothing has changed.
    pub(crate) fn push(&mut self, len: usize, in_all: &mut usize) -> Option<usize> {
        let of_others = *in_all - self.bytes;
        if len > MOST_BYTES || of_others + len > MOST_BYTES_IN_ALL {
            return None;
        }
        let mut dropped = 0;
        while self.lengths.len() >= MOST_PACKETS
            || self.bytes + len > MOST_BYTES
            || *in_all + len > MOST_BYTES_IN_ALL
        {
            let oldest = self.lengths.pop_front()?;
            self.bytes -= oldest;
            *in_all -= oldest;
            dropped += 1;
        }
        self.lengths.push_back(len);
        self.bytes += len;
        *in_all += len;
        Some(dropped)
    }

    /// Lets all go; returns how many.
    pub(crate) fn clear(&mut self, in_all: &mut usize) -> usize {
        *in_all -= self.bytes;
        self.bytes = 0;
        std::mem::take(&mut self.lengths).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_64_packets_and_128_kib_waiting_and_all_have_8_mib() {
        let (mut peer, mut in_all) = (Waiting::default(), 0);
        let dropped: usize = (0..100).map(|_| peer.push(100, &mut in_all).unwrap()).sum();
        assert_eq!((dropped, in_all), (36, 6_400));
        // The oldest go, as many as it takes.
        assert_eq!(peer.push(MOST_BYTES - 150, &mut in_all), Some(63));
        assert_eq!(in_all, MOST_BYTES - 50);
        assert_eq!(peer.clear(&mut in_all), 2);
        let mut peers: Vec<Waiting> = (0..65).map(|_| Waiting::default()).collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            let expected = (number < 64).then_some(0);
            assert_eq!(peer.push(MOST_BYTES, &mut in_all), expected, "peer {number}");
        }
        assert_eq!(in_all, MOST_BYTES_IN_ALL);
        // One that has no room takes none of its own peer's out either.
        assert_eq!(peers[5].clear(&mut in_all), 1);
        assert_eq!(peers[64].push(MOST_BYTES - 200, &mut in_all), Some(0));
        assert_eq!(peers[5].push(150, &mut in_all), Some(0));
        assert_eq!(peers[5].push(201, &mut in_all), None, "50 are left, and 150 are its own");
        assert_eq!(peers[5].clear(&mut in_all), 1);
        assert_eq!(peers[64].clear(&mut in_all), 1);
        assert_eq!(peers[5].push(MOST_BYTES, &mut in_all), Some(0));
        assert_eq!(peers[3].clear(&mut in_all), 1);
        assert_eq!(peers[64].push(1, &mut in_all), Some(0));
    }
}
