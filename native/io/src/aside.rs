//! The sockets of the sidings, and which peers' trains leave by them.
//!
//! Path of a packet: `io::transmit` → **`aside`** (→ `core::sidings`) → `mmsg`.
//! They are bound to the ports of those that send, but to addresses that nobody has: what arrives
//! is never looked up among them. With each datagram goes the address that it comes from.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use tunneld_core::batch::Train;
use tunneld_core::encapsulation::Via;
use tunneld_core::sidings::{Sidings, TRICKLE_SIDING, cost};

use crate::clock;
use crate::descriptor::Underlay;
use crate::mmsg::{Outlet, Source};

/// The sidings of one family of the underlay.
struct Family<'a> {
    sidings: Sidings,
    /// For each siding one socket of each port.
    sockets: Vec<&'a [OwnedFd]>,
    source: Option<Source>,
}

/// Peers set aside, over IPv4 and over IPv6, on one port.
pub(crate) struct Aside<'a>([Family<'a>; 2]);

/// How the datagrams of a queue leave.
#[derive(Clone, Copy)]
pub(crate) enum Exit {
    /// By the sockets of the backend.
    Plain,
    /// By the socket of the worker's lane.
    Lane,
    /// By the port of encryption itself, whatever the lane.
    Port,
}

/// Peers set aside, at each exit. There are no sidings on the port of encryption for other lanes
/// than the first: the few peers behind a translation of addresses wait for each other.
pub(crate) struct Asides<'a> {
    plain: Aside<'a>,
    lane: Aside<'a>,
    port: Aside<'a>,
}

impl<'a> Asides<'a> {
    pub(crate) fn new(underlay: &'a Underlay) -> Self {
        Self {
            plain: Aside::new(underlay, Via::Plain),
            lane: Aside::new(underlay, Via::Esp),
            port: Aside([Family::none(), Family::none()]),
        }
    }

    pub(crate) const fn of(&self, exit: Exit) -> &Aside<'a> {
        match exit {
            Exit::Plain => &self.plain,
            Exit::Lane => &self.lane,
            Exit::Port => &self.port,
        }
    }

    pub(crate) const fn of_mut(&mut self, exit: Exit) -> &mut Aside<'a> {
        match exit {
            Exit::Plain => &mut self.plain,
            Exit::Lane => &mut self.lane,
            Exit::Port => &mut self.port,
        }
    }
}

impl<'a> Aside<'a> {
    fn new(underlay: &'a Underlay, via: Via) -> Self {
        let sources = underlay.addresses(via);
        let sidings = underlay.sidings(via).into_iter();
        let mut families = sidings.zip(sources).map(|(sockets, address)| {
            // Without the address nothing could leave by them.
            let sockets = if address.is_some() { sockets } else { Vec::new() };
            Family {
                sidings: Sidings::new(sockets.len()),
                sockets,
                source: address.map(Source::of),
            }
        });
        Self(std::array::from_fn(|_| families.next().unwrap_or_else(Family::none)))
    }

    fn family(&self, peer: &SocketAddr) -> &Family<'a> {
        &self.0[usize::from(peer.is_ipv6())]
    }

    fn family_mut(&mut self, peer: &SocketAddr) -> &mut Family<'a> {
        &mut self.0[usize::from(peer.is_ipv6())]
    }

    /// Returns whether peers of its family can be set aside.
    pub(crate) fn is_possible(&self, peer: &SocketAddr) -> bool {
        !self.family(peer).sidings.is_empty()
    }

    /// Returns the siding of a peer that is set aside.
    pub(crate) fn home(&self, peer: &SocketAddr) -> Option<usize> {
        self.family(peer).sidings.home(peer)
    }

    /// Returns what a queue of a batch leaves by to a peer in a siding.
    pub(crate) fn outlet(&self, peer: &SocketAddr, siding: usize, path: usize) -> Outlet<'_> {
        let family = self.family(peer);
        let sockets = family.sockets[siding];
        Outlet { socket: &sockets[path % sockets.len()], source: family.source.as_ref() }
    }

    /// Sets a peer aside. Returns whether it has a siding now that it had not before.
    pub(crate) fn set_aside(&mut self, peer: &SocketAddr, is_alive: bool) -> bool {
        let Family { sidings, sockets, .. } = self.family_mut(peer);
        let before = sidings.home(peer);
        let held = |siding: usize| held(sockets[siding]);
        let after = sidings.set_aside(*peer, is_alive, clock::now_ns(), &held);
        after.is_some() && after != before
    }

    /// Returns how many of some trains to one peer its siding takes.
    pub(crate) fn admit(&mut self, siding: usize, trains: &[Train]) -> usize {
        let Some(first) = trains.first() else { return 0 };
        let Family { sidings, sockets, .. } = self.family_mut(&first.endpoint);
        let costs = trains.iter().map(|train| cost(train.len_bytes()));
        sidings.admit(siding, costs, || held(sockets[siding]), clock::now_ns())
    }

    /// Takes note that something was sent to a peer in a siding.
    pub(crate) fn sent(&mut self, peer: &SocketAddr, siding: usize) {
        let Family { sidings, sockets, .. } = self.family_mut(peer);
        sidings.sent(siding, held(sockets[siding]));
    }

    /// Returns whether a peer that met its siding full shares it.
    pub(crate) fn is_sharing(&self, peer: &SocketAddr) -> bool {
        self.family(peer).sidings.is_sharing(peer)
    }

    /// Returns whether a train may go by the trickle, to a peer that met its siding full.
    pub(crate) fn trickles(&mut self, train: &Train) -> bool {
        let (peer, cost) = (&train.endpoint, cost(train.len_bytes()));
        let Family { sidings, sockets, .. } = self.family_mut(peer);
        sidings.trickles(peer, cost, || held(sockets[TRICKLE_SIDING]), clock::now_ns())
    }

    /// Returns whether what a peer was sent by the trickle went through.
    pub(crate) fn is_through(&self, peer: &SocketAddr) -> bool {
        let Family { sidings, sockets, .. } = self.family(peer);
        sidings.is_through(peer, || held(sockets[TRICKLE_SIDING]))
    }
}

impl Family<'_> {
    fn none() -> Self {
        Self { sidings: Sidings::new(0), sockets: Vec::new(), source: None }
    }
}

/// Returns how many bytes the kernel still holds of what was sent by some sockets.
fn held(sockets: &[OwnedFd]) -> usize {
    sockets.iter().map(in_kernel).sum()
}

/// Source: tcp(7), udp(7): SIOCOUTQ.
fn in_kernel(socket: &OwnedFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int to where it is told, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}
