//! ESP in tunnel mode: packets are sealed in their slots, and opened where they lie.
//!
//! By which SA is asked of the `sad`, once a packet or super-packet on the way out, and where the
//! SPI changes on the way in.
//!
//! Source: RFC 4303 §3.3, §3.4; RFC 3948 §2; RFC 4301 §5.1 and §5.2 (the source of what was opened
//! must be one that its SA may speak for).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard};

use tunneld_esp::packet::{self, Content, HEAD, TAIL};
use tunneld_esp::sa::Numbers;
use tunneld_esp::spi::{Kind, Spi};
use tunneld_wire::ip::Version;
use tunneld_wire::{ip, ipv4, ipv6};

use super::{Around, Decapsulate, Encapsulate, Origin, Stripped, Via};
use crate::drop_reason::DropReason;
use crate::prefix::Prefix;
use crate::sad::{Heard, OpeningSet, Protected, Sad, Sealing};

/// Seals what goes to one peer for one subnet.
#[derive(Debug, Clone)]
pub struct Sealer {
    /// `None`: nothing is ever sealed.
    peer: Option<Arc<Protected>>,
    subnet: Prefix,
}

impl Sealer {
    /// Seals for `peer`, as long as it claims `subnet`.
    pub(super) const fn new(peer: Option<Arc<Protected>>, subnet: Prefix) -> Self {
        Self { peer, subnet }
    }
}

impl Encapsulate for Sealer {
    const HEAD: usize = HEAD;
    const TAIL: usize = TAIL;
    // As with VXLAN, the tunnel is one link; only the hosts take their hops.
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = false;
    const VIA: Via = Via::Esp;

    type Around<'a> = Sealed<'a>;

    #[inline]
    fn begin(
        &self,
        worker: usize,
        version: Version,
        datagrams: usize,
        now_ns: u64,
    ) -> Result<Sealed<'_>, DropReason> {
        let peer = self.peer.as_ref().ok_or(DropReason::NoKeys)?;
        let held = peer.sealing(worker).ok_or(DropReason::NoKeys)?;
        let Sealing { set, .. } = held.as_ref().ok_or(DropReason::NoKeys)?;
        if !set.claim().names(self.subnet) {
            return Err(DropReason::Claim);
        }
        let sa = set.lane(worker).ok_or(DropReason::SealingFailed)?;
        let numbers = sa.reserve(datagrams as u64, now_ns)?;
        set.note_sent();
        let content = if version == Version::V6 { Content::Ipv6 } else { Content::Ipv4 };
        Ok(Sealed { held, worker, numbers, content })
    }

    fn inner(_: &[u8]) -> Option<&[u8]> {
        None
    }

    fn largest_inner(len: usize) -> usize {
        packet::largest_payload(len).unwrap_or(0)
    }

    fn peer(&self) -> Option<&Arc<Protected>> {
        self.peer.as_ref()
    }
}

/// Seals the datagrams of one packet. While it is there, the peer gets no other keys.
pub struct Sealed<'a> {
    held: MutexGuard<'a, Option<Sealing>>,
    worker: usize,
    numbers: Numbers,
    content: Content,
}

impl Around for Sealed<'_> {
    #[inline]
    fn finish(&mut self, slot: &mut [u8]) -> Result<usize, DropReason> {
        let Self { held, worker, numbers, content } = self;
        let sa = held.as_ref().and_then(|sealing| sealing.set.lane(*worker));
        Ok(sa.ok_or(DropReason::NoKeys)?.seal(numbers, *content, slot)?)
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.held.as_ref().map(|sealing| sealing.endpoint)
    }
}

/// Opens what arrives at the port of encryption.
#[derive(Debug, Clone)]
pub struct Opener(pub(crate) Arc<Sad>);

/// What is known of the datagrams before, in the same batch.
#[derive(Debug, Default)]
pub struct Run {
    /// The SA of the datagram before: most often it is this one's too.
    last: Option<(Spi, Arc<OpeningSet>)>,
    /// Whether something authentic came under a set that is not confirmed.
    pub(crate) proves: bool,
}

impl Decapsulate for Opener {
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = false;

    type Run = Run;

    /// Datagrams are sealed one by one: the kernel's word is all there is.
    fn split_len(&self, message: &[u8], segment_len: Option<usize>) -> usize {
        segment_len.filter(|len| *len > 0).unwrap_or(message.len()).max(1)
    }

    #[inline]
    fn strip(
        &self,
        run: &mut Run,
        datagram: &mut [u8],
        now_ns: u64,
    ) -> Result<Stripped, DropReason> {
        let spi = match Kind::of(datagram).ok_or(DropReason::EspMalformed)? {
            Kind::Data(spi) => spi,
            Kind::Handshake => return Ok(Stripped::Control),
            Kind::Keepalive => return Err(DropReason::Keepalive),
        };
        let set = match &run.last {
            Some((last, set)) if *last == spi => set,
            _ => {
                let set = self.0.set(spi.base()).ok_or(DropReason::EspUnknownSpi)?;
                &run.last.insert((spi, set)).1
            }
        };
        let lane = set.lane(spi).ok_or(DropReason::EspUnknownSpi)?;
        let opened = lane.lock().open(datagram, now_ns)?;
        let is_dummy = opened.content == Content::Dummy;
        set.note_heard(if is_dummy { Heard::Dummy } else { Heard::Data });
        run.proves |= !set.is_confirmed();
        if is_dummy {
            return Ok(Stripped::Dummy);
        }
        let inner = &datagram[opened.place.clone()];
        match source(opened.content, inner) {
            Some(source) if set.claim().contains(source) => {}
            _ => return Err(DropReason::EspClaim),
        }
        let origin = Origin::Peer(set.peer().number());
        Ok(Stripped::Packet { place: opened.place, origin })
    }
}

/// Returns the source of a packet, which is as long as its header.
fn source(content: Content, inner: &[u8]) -> Option<IpAddr> {
    let addresses = match content {
        Content::Ipv6 => inner.get(<ipv6::Header as ip::Header>::ADDRESSES)?,
        _ => inner.get(<ipv4::Header as ip::Header>::ADDRESSES)?,
    };
    match content {
        Content::Ipv6 => addresses.first_chunk::<16>().map(|source| IpAddr::from(*source)),
        _ => addresses.first_chunk::<4>().map(|source| IpAddr::from(*source)),
    }
}
