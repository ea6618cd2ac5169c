//! Where the thread of the handshakes sends: messages by sockets of its own, packets that waited by
//! the workers that were handed them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SendFlags, sendto};

use crate::errands::{Errands, Fate, Packet};
use crate::pulse::Pulse;

/// A worker, as far as it takes errands.
pub(crate) struct Lane {
    pub(crate) errands: Arc<Errands>,
    /// Of its thread that sends.
    pub(crate) pulse: Arc<Pulse>,
}

/// What there is to send by.
pub(crate) struct Exits {
    /// The sockets of the first lane, over IPv4 and over IPv6: their port is that of encryption.
    pub(crate) sockets: [Option<OwnedFd>; 2],
    /// By worker.
    pub(crate) lanes: Vec<Lane>,
}

impl Exits {
    /// Sends a datagram; what does not go at once is lost, and made anew in time.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) -> Result<(), Errno> {
        let socket = self.sockets[usize::from(to.is_ipv6())].as_ref();
        let socket = socket.ok_or(Errno::AFNOSUPPORT)?;
        let send = || sendto(socket, datagram, SendFlags::DONTWAIT, &to).map(drop);
        // An error may be an earlier datagram's, to another peer: the socket says so once.
        send().or_else(|_| send())
    }

    /// Hands packets back to the workers that they came by, each worker's in their order.
    pub(crate) fn hand_back(&self, fate: Fate, packets: impl Iterator<Item = (usize, Packet)>) {
        let mut by_worker: Vec<Vec<(Fate, Packet)>> =
            self.lanes.iter().map(|_| Vec::new()).collect();
        for (worker, packet) in packets {
            by_worker[worker].push((fate, packet));
        }
        for (lane, packets) in self.lanes.iter().zip(by_worker) {
            if !packets.is_empty() {
                lane.errands.add_packets(packets);
                lane.pulse.nudge();
            }
        }
    }
}
