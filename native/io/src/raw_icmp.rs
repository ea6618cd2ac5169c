//! ICMP errors through a raw socket, which routes them like any packet of this host.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, sendto};
use tunneld_core::counters::WorkerCounters;
use tunneld_core::replies::Replies;

/// Sends what is due. What the kernel does not take is counted as suppressed: nobody may rely
/// on ICMP, and a retry would only add to the flood.
pub(crate) fn send(socket: &OwnedFd, replies: &Replies, counters: &WorkerCounters) {
    for (destination, packet) in replies.iter() {
        match sendto(socket, packet, SendFlags::DONTWAIT, &SocketAddrV4::new(destination, 0)) {
            Ok(_) => counters.icmp_sent.add(1),
            Err(_) => counters.icmp_suppressed.add(1),
        }
    }
}
