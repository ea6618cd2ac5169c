//! ICMP errors through raw sockets, which route them like any packet of this host.

use std::net::SocketAddr;

use rustix::net::{SendFlags, sendto};
use tunneld_core::counters::WorkerCounters;
use tunneld_core::replies::Replies;

use crate::descriptor::Icmp;

/// Sends what is due: whole packets over IPv4, messages over IPv6. What the kernel does not take is counted as suppressed: nobody may rely
/// on ICMP, and a retry would only add to the flood.
pub(crate) fn send(sockets: &Icmp, replies: &Replies, counters: &WorkerCounters) {
    for (destination, packet) in replies.iter() {
        let socket = if destination.is_ipv4() { &sockets.ipv4 } else { &sockets.ipv6 };
        let sent = socket.as_ref().is_some_and(|socket| {
            sendto(socket, packet, SendFlags::DONTWAIT, &SocketAddr::new(destination, 0)).is_ok()
        });
        if sent { counters.icmp_sent.add(1) } else { counters.icmp_suppressed.add(1) }
    }
}
