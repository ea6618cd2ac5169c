//! What goes around an inner packet on its way to a peer, and comes off at the other end.
//!
//! Path of a packet: `outbound` → **`encapsulation`** → `batch`, and
//! `io` → `inbound` → **`encapsulation`** → `inbound`.
//! An encapsulation is a file here with a type for each direction. The loops of `outbound` and
//! `inbound` are generic over them; which one it is stands in the FIB, and is asked once a packet,
//! by [`by_way!`] and [`by_arrival!`].

mod esp;
mod parameters;
mod raw;
#[cfg(test)]
pub(crate) mod toy;
mod vxlan;

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use tunneld_wire::ip::Version;

use crate::drop_reason::DropReason;
use crate::sad::{Protected, Sad};

pub use esp::{Opener, Sealer};
pub use parameters::{Encapsulation, Meanwhile, Unreadable};
pub use raw::Raw;
pub use vxlan::{Frames, Heads, Vtep};

/// By which sockets datagrams leave and arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// Those of the backend.
    #[default]
    Plain,
    /// Those of encryption.
    Esp,
}

/// Puts an encapsulation around inner packets that already stand in their slots.
///
/// A datagram is `HEAD` bytes, the inner packet, and at most `TAIL` bytes.
pub trait Encapsulate {
    /// Bytes in front of the inner packet.
    const HEAD: usize;
    /// Most bytes behind it.
    const TAIL: usize;
    /// Whether the tunnel takes a hop off the inner packet at this end.
    const TAKES_HOP: bool;
    /// Whether a peer may send super-packets without cutting them.
    const ARRIVES_UNCUT: bool;
    /// By which sockets datagrams leave.
    const VIA: Via = Via::Plain;

    /// What writes the datagrams of one packet.
    type Around<'a>: Around
    where
        Self: 'a;

    /// Begins with a packet of that version, which leaves in as many `datagrams` by `worker`.
    ///
    /// What a datagram takes that is there once (a number, for one) is taken here for all of them;
    /// what is not used in the end is lost.
    ///
    /// # Errors
    ///
    /// Such packets cannot go to this peer.
    fn begin(
        &self,
        worker: usize,
        version: Version,
        datagrams: usize,
        now_ns: u64,
    ) -> Result<Self::Around<'_>, DropReason>;

    /// Returns the inner packet of a finished datagram, where it can still be read.
    fn inner(datagram: &[u8]) -> Option<&[u8]>;

    /// Returns the length of the largest inner packet that a datagram of `len` bytes carries.
    fn largest_inner(len: usize) -> usize;

    /// Returns whose keys packets wait for that [`begin`](Self::begin) refuses for want of them.
    fn peer(&self) -> Option<&Arc<Protected>> {
        None
    }
}

/// Writes what goes around the inner packets of one packet or super-packet.
pub trait Around {
    /// Finishes `slot`, whose bytes from `HEAD` to `slot.len() - TAIL` are the inner packet, and
    /// returns the length of the datagram in bytes.
    ///
    /// # Errors
    ///
    /// This one datagram cannot be made.
    fn finish(&mut self, slot: &mut [u8]) -> Result<usize, DropReason>;

    /// Returns where the datagrams go, if that is not where the control plane says.
    fn endpoint(&self) -> Option<SocketAddr> {
        None
    }
}

/// Takes the encapsulation off datagrams that arrive: the mirror of [`Encapsulate`].
pub trait Decapsulate {
    /// Whether the tunnel takes a hop off the inner packet at this end.
    const TAKES_HOP: bool;
    /// Whether super-packets may arrive whole, and packets with a checksum that is not finished.
    const ARRIVES_UNCUT: bool;

    /// What is known from the datagrams before, in the same batch.
    type Run: Default;

    /// Returns the length of the datagrams that a message of the kernel is to be cut into, at
    /// least 1; `segment_len` is what the kernel says of it.
    fn split_len(&self, message: &[u8], segment_len: Option<usize>) -> usize;

    /// Takes the encapsulation off one datagram, in place.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with it.
    fn strip(
        &self,
        run: &mut Self::Run,
        datagram: &mut [u8],
        now_ns: u64,
    ) -> Result<Stripped, DropReason>;
}

/// What was in a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stripped {
    /// An inner packet.
    Packet {
        /// Where it lies in the datagram.
        place: Range<usize>,
        /// What says who sent it.
        origin: Origin,
    },
    /// A message of the encapsulation itself, for the control plane.
    Control,
    /// Nothing, as it should be.
    Dummy,
}

/// What says who sent an inner packet.
#[derive(Debug, Clone, Copy, Eq)]
pub enum Origin {
    /// The underlay address the datagram came from, which must fit the inner source.
    Address,
    /// The encapsulation: nobody else could have made the datagram. Only what the peer may say is
    /// left to be checked. It is the [number](Protected::number) of that peer.
    Peer(NonZeroU64),
}

impl Origin {
    /// Returns it as the one word that it is in memory.
    const fn word(self) -> u64 {
        match self {
            Self::Address => 0,
            Self::Peer(number) => number.get(),
        }
    }
}

/// Compared for each packet: derived, it would take eight instructions more.
impl PartialEq for Origin {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.word() == other.word()
    }
}

/// How packets leave for a peer: made once for each FIB.
#[derive(Debug, Clone)]
pub enum Way {
    /// As they are.
    Raw(Raw),
    /// In VXLAN frames.
    Vxlan(Heads),
    /// Sealed.
    Esp(Sealer),
}

impl Way {
    /// Returns the way to a peer from a host that is, or is not, an end of VXLAN tunnels, and that
    /// has, or has not, a database of SAs.
    pub fn new(encapsulation: Encapsulation, vtep: Option<&Vtep>, sad: Option<&Sad>) -> Self {
        match encapsulation {
            Encapsulation::Raw => Self::Raw(Raw),
            Encapsulation::Vxlan { vtep_mac } => Self::Vxlan(Heads::new(vtep, vtep_mac)),
            Encapsulation::Esp { key, subnet } => {
                Self::Esp(Sealer::new(sad.map(|sad| sad.peer(key)), subnet))
            }
        }
    }

    /// Returns whether everybody on the way can read and write what goes so.
    pub const fn is_plain(&self) -> bool {
        match self {
            Self::Esp(_) => false,
            Self::Raw(_) | Self::Vxlan(_) => true,
        }
    }

    /// Returns the peer that packets are sealed for; `None`: they go plain.
    pub fn protected(&self) -> Option<&Protected> {
        match self {
            Self::Esp(sealer) => sealer.peer().map(|peer| &**peer),
            Self::Raw(_) | Self::Vxlan(_) => None,
        }
    }

    /// Returns the inner packet of a finished datagram, where it can still be read.
    pub fn inner<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        by_way!(self, way => inner_of(way, datagram))
    }

    /// Returns the length of the largest inner packet that a datagram of `len` bytes carries.
    pub fn largest_inner(&self, len: usize) -> usize {
        by_way!(self, way => largest_inner_of(way, len))
    }
}

fn inner_of<'a, E: Encapsulate>(_: &E, datagram: &'a [u8]) -> Option<&'a [u8]> {
    E::inner(datagram)
}

fn largest_inner_of<E: Encapsulate>(_: &E, len: usize) -> usize {
    E::largest_inner(len)
}

/// How datagrams arrive: one way for all that come by the backend's sockets.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// As inner packets.
    Raw(Raw),
    /// In VXLAN frames.
    Vxlan(Frames),
}

impl Arrival {
    /// Returns what arrives at a host that is, or is not, an end of VXLAN tunnels.
    pub const fn new(vtep: Option<Vtep>) -> Self {
        match vtep {
            None => Self::Raw(Raw),
            Some(vtep) => Self::Vxlan(Frames::new(vtep)),
        }
    }
}

/// What is known of the datagrams before, for each encapsulation.
#[derive(Default)]
pub(crate) struct Runs {
    pub(crate) raw: <Raw as Decapsulate>::Run,
    pub(crate) vxlan: <Frames as Decapsulate>::Run,
    pub(crate) esp: <Opener as Decapsulate>::Run,
}

/// Does something with a [`Way`], generically: the one place that tells them apart.
macro_rules! by_way {
    ($way:expr, $each:ident => $do:expr) => {
        match $way {
            $crate::encapsulation::Way::Raw($each) => $do,
            $crate::encapsulation::Way::Vxlan($each) => $do,
            $crate::encapsulation::Way::Esp($each) => $do,
        }
    };
}

/// Does something with an [`Arrival`] and what is known of the datagrams before.
macro_rules! by_arrival {
    ($arrival:expr, $runs:expr, ($each:ident, $run:ident) => $do:expr) => {
        match $arrival {
            $crate::encapsulation::Arrival::Raw($each) => {
                let $run = &mut $runs.raw;
                $do
            }
            $crate::encapsulation::Arrival::Vxlan($each) => {
                let $run = &mut $runs.vxlan;
                $do
            }
        }
    };
}

pub(crate) use {by_arrival, by_way};
