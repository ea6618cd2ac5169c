//! What lies around an inner packet that arrives, and whether it is for us.
//!
//! Path of a packet: `io` → **`decapsulation`** → `inbound`.
//!
//! Source: RFC 7348 §4.1, §5; linux drivers/net/vxlan (what is dropped there is dropped here);
//! IEEE 802.3 §3.2.8 (short frames are padded).

use std::ops::Range;

use tunneld_wire::ip::Version;
use tunneld_wire::{ethernet, vxlan};

use crate::drop_reason::DropReason;
use crate::encapsulation::{Encapsulate, Vxlan};
use crate::fib::Vtep;

/// Returns where the inner packet lies in a VXLAN datagram, without padding behind it.
///
/// # Errors
///
/// The first thing that is wrong with the headers in front.
pub fn open(vtep: &Vtep, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
    let (header, frame) = datagram.split_first_chunk().ok_or(DropReason::TruncatedFrame)?;
    let (frame, packet) = frame.split_first_chunk().ok_or(DropReason::TruncatedFrame)?;
    vxlan::check(*header, vtep.vni, vtep.gbp).map_err(|fault| match fault {
        vxlan::Fault::NoVni => DropReason::VniFlagClear,
        vxlan::Fault::OtherVni => DropReason::WrongVni,
        vxlan::Fault::ReservedBits => DropReason::ReservedBits,
    })?;
    let frame = ethernet::Header::parse(*frame);
    let version = match frame.ethertype {
        ethernet::TYPE_IPV4 => Version::V4,
        ethernet::TYPE_IPV6 => Version::V6,
        ethernet::TYPE_VLAN | ethernet::TYPE_SERVICE_VLAN => return Err(DropReason::VlanTag),
        ethernet::TYPE_ARP => return Err(DropReason::ArpInside),
        _ => return Err(DropReason::UnknownEthertype),
    };
    if vtep.owns(frame.source) {
        return Err(DropReason::OwnMac);
    }
    if vtep.mac_for(version) != Some(frame.destination) {
        return Err(DropReason::WrongMac);
    }
    match Version::of(packet) {
        Some(found) if found != version => return Err(DropReason::EthertypeMismatch),
        _ => {}
    }
    let len = packet_len(packet).filter(|len| *len < packet.len()).unwrap_or(packet.len());
    Ok(Vxlan::HEAD..Vxlan::HEAD + len)
}

/// Returns the length that `packet` says it has, in bytes, where that can be one.
pub fn packet_len(packet: &[u8]) -> Option<usize> {
    let field = |place: usize| {
        let field = packet.get(place..)?.first_chunk::<2>()?;
        Some(usize::from(u16::from_be_bytes(*field)))
    };
    match Version::of(packet)? {
        Version::V4 => field(2).filter(|len| *len >= 20),
        Version::V6 => field(4).map(|len| 40 + len),
        Version::Other(_) => None,
    }
}
