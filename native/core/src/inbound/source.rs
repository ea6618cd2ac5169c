//! Whether a packet may come from where it says.
//!
//! Path of a packet: underlay → `inbound` → **`source`** → `inbound`.
//! A packet that came by ESP comes from the identity that its SA is shared with. A plain one comes
//! from an address, which anybody in the underlay can write: it never speaks for a peer with keys.

use std::net::IpAddr;
use std::num::NonZeroU64;

use crate::adjacency_id::AdjacencyId;
use crate::drop_reason::DropReason;
use crate::fib::{Fib, Settings, SourceCheck, Target};

/// Returns the peer that a plain packet from `source` came by, if it may come that way.
///
/// On the strict way an honest packet costs one lookup; the endpoints are searched only to name
/// what is wrong. Ports are not compared: flannel's peers are known by address alone.
#[inline]
pub(super) fn check_plain(
    fib: &Fib,
    settings: &Settings,
    outer_source: IpAddr,
    source: impl Into<IpAddr>,
) -> Result<Option<AdjacencyId>, DropReason> {
    let source = source.into();
    let leased = fib.lookup(source);
    if let (SourceCheck::Strict, Some(Target::Adjacency(id))) = (settings.source_check, leased) {
        let adjacency = fib.adjacency(id);
        if adjacency.parameters.endpoint.ip() == outer_source && adjacency.takes_plain() {
            return Ok(Some(id));
        }
    }
    judge_plain(fib, settings.source_check, outer_source, (source, leased))
}

/// Returns the peer with that number, which is known to have sent a packet from `source`, if that is
/// in a subnet that is reached by it. No setting loosens that.
pub(super) fn check_claim(
    fib: &Fib,
    number: NonZeroU64,
    source: impl Into<IpAddr>,
) -> Result<AdjacencyId, DropReason> {
    match fib.lookup(source) {
        Some(Target::Adjacency(holder)) => {
            let peer = fib.adjacency(holder).takes_sealed_of();
            let is_same = peer.is_some_and(|peer| peer.number() == number);
            if is_same { Ok(holder) } else { Err(DropReason::SourceOfOtherPeer) }
        }
        Some(Target::Local) => Err(DropReason::SourceIsLocal),
        None => Err(DropReason::SourceNotLeased),
    }
}

/// Returns what becomes of a plain packet whose source is not leased by the host it came from. A
/// peer's own address, which datagrams of its come from, is in no lease and yet nobody else's:
/// answers to containers that speak to the host itself come by the tunnel.
#[inline(never)]
fn judge_plain(
    fib: &Fib,
    check: SourceCheck,
    outer_source: IpAddr,
    (source, leased): (IpAddr, Option<Target>),
) -> Result<Option<AdjacencyId>, DropReason> {
    let is_protected = |id: AdjacencyId| !fib.adjacency(id).takes_plain();
    let is_of_protected = match leased {
        Some(Target::Adjacency(id)) => is_protected(id),
        Some(Target::Local) => false,
        None => fib.by_endpoint(source).is_some_and(is_protected),
    };
    if is_of_protected {
        return Err(DropReason::PlainRefused);
    }
    let peer = fib.by_endpoint(outer_source);
    if check == SourceCheck::Off {
        return Ok(peer);
    }
    let peer = peer.ok_or(DropReason::UnknownPeer)?;
    match (leased, check) {
        (Some(Target::Local), _) => Err(DropReason::SourceIsLocal),
        // What is loosened is what may come from peers that speak plain.
        (_, SourceCheck::Loose) if is_protected(peer) => Err(DropReason::PlainRefused),
        (_, SourceCheck::Loose | SourceCheck::Off) => Ok(Some(peer)),
        (None, SourceCheck::Strict) if source == outer_source => Ok(Some(peer)),
        (None, SourceCheck::Strict) => Err(DropReason::SourceNotLeased),
        (Some(Target::Adjacency(_)), SourceCheck::Strict) => Err(DropReason::SourceOfOtherPeer),
    }
}
