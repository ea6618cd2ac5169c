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

/// The headers in front of an inner packet.
type Head = [u8; Vxlan::HEAD];

/// Opens the datagrams of a batch. Headers that the one before had are not checked again.
#[derive(Default)]
pub struct Decapsulation {
    checked: Option<(Head, Version)>,
}

impl Decapsulation {
    /// Returns where the inner packet lies in a VXLAN datagram, without padding behind it. All
    /// datagrams of a batch need the same `vtep`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong with the headers in front.
    #[inline]
    pub fn open(&mut self, vtep: &Vtep, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
        let (head, packet) = datagram.split_first_chunk().ok_or(DropReason::TruncatedFrame)?;
        let version = match self.checked {
            Some((checked, version)) if checked == *head => version,
            _ => {
                let version = check(vtep, head)?;
                self.checked = Some((*head, version));
                version
            }
        };
        match Version::of(packet) {
            Some(found) if found != version => return Err(DropReason::EthertypeMismatch),
            _ => {}
        }
        let len = packet_len(packet).filter(|len| *len < packet.len()).unwrap_or(packet.len());
        Ok(Vxlan::HEAD..Vxlan::HEAD + len)
    }

    /// Forgets what was checked.
    pub const fn clear(&mut self) {
        self.checked = None;
    }
}

/// Returns the version that `head` announces, if it is for us.
fn check(vtep: &Vtep, head: &Head) -> Result<Version, DropReason> {
    let (header, frame) = head.split_first_chunk().ok_or(DropReason::TruncatedFrame)?;
    let frame = frame.first_chunk().ok_or(DropReason::TruncatedFrame)?;
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
    Ok(version)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MAC, MAC_B, MAC_V6, framed, packet, vtep};

    fn open(vtep: &Vtep, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
        Decapsulation::default().open(vtep, datagram)
    }

    fn good() -> Vec<u8> {
        framed(&packet([10, 5, 2, 2], [10, 5, 1, 2], 63, 100))
    }

    /// The good datagram with some bytes in place of its own.
    fn with(place: usize, bytes: &[u8]) -> Vec<u8> {
        let mut datagram = good();
        datagram[place..place + bytes.len()].copy_from_slice(bytes);
        datagram
    }

    #[test]
    fn a_frame_for_us_is_opened_without_its_padding() {
        assert_eq!(open(&vtep(), &good()), Ok(22..122));
        assert_eq!(open(&vtep(), &[&good()[..], &[0; 46]].concat()), Ok(22..122));
        // An IPv6 packet of 40 + 8 bytes.
        let mut ipv6 = with(8, &MAC_V6.0);
        ipv6[20..28].copy_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8]);
        assert_eq!(open(&vtep(), &ipv6), Ok(22..70));
    }

    #[test]
    fn a_length_that_cannot_be_one_trims_nothing() {
        for len in [[0, 0], [0, 19], [0, 101], [0xff, 0xff]] {
            assert_eq!(open(&vtep(), &with(24, &len)), Ok(22..122), "{len:?}");
        }
        assert_eq!(open(&vtep(), &good()[..23]), Ok(22..23));
        assert_eq!(open(&vtep(), &good()[..22]), Ok(22..22));
    }

    #[test]
    fn every_fault_has_its_own_reason() {
        for len in 0..22 {
            assert_eq!(open(&vtep(), &good()[..len]), Err(DropReason::TruncatedFrame), "{len}");
        }
        let other_version = packet_of_version(0x60);
        for (datagram, reason) in [
            (with(0, &[0]), DropReason::VniFlagClear),
            (with(6, &[8]), DropReason::WrongVni),
            (with(4, &[0x80]), DropReason::WrongVni),
            (with(0, &[0x88]), DropReason::ReservedBits),
            (with(7, &[1]), DropReason::ReservedBits),
            (with(20, &[0x81, 0x00]), DropReason::VlanTag),
            (with(20, &[0x88, 0xa8]), DropReason::VlanTag),
            (with(20, &[0x08, 0x06]), DropReason::ArpInside),
            (with(20, &[0x88, 0xcc]), DropReason::UnknownEthertype),
            (with(14, &MAC.0), DropReason::OwnMac),
            (with(14, &MAC_V6.0), DropReason::OwnMac),
            (with(8, &MAC_B.0), DropReason::WrongMac),
            (with(8, &MAC_V6.0), DropReason::WrongMac),
            (with(8, &[0xff; 6]), DropReason::WrongMac),
            (with(8, &[0x33, 0x33, 0, 0, 0, 1]), DropReason::WrongMac),
            (with(20, &[0x86, 0xdd]), DropReason::WrongMac),
            (other_version, DropReason::EthertypeMismatch),
            (packet_of_version(0), DropReason::EthertypeMismatch),
        ] {
            assert_eq!(open(&vtep(), &datagram), Err(reason));
            // A good one before it changes nothing.
            let mut batch = Decapsulation::default();
            assert_eq!(batch.open(&vtep(), &good()), Ok(22..122));
            assert_eq!(batch.open(&vtep(), &datagram), Err(reason));
            assert_eq!(batch.open(&vtep(), &good()), Ok(22..122));
        }
    }

    #[test]
    fn headers_are_checked_again_in_the_next_batch() {
        let mut batch = Decapsulation::default();
        assert_eq!(batch.open(&vtep(), &good()), Ok(22..122));
        batch.clear();
        let ipv6_only = Vtep { mac: None, ..vtep() };
        assert_eq!(batch.open(&ipv6_only, &good()), Err(DropReason::WrongMac));
    }

    fn packet_of_version(first: u8) -> Vec<u8> {
        with(22, &[first])
    }

    #[test]
    fn a_family_without_an_address_takes_no_frames() {
        let ipv6_only = Vtep { mac: None, ..vtep() };
        assert_eq!(open(&ipv6_only, &good()), Err(DropReason::WrongMac));
    }

    #[test]
    fn group_policy_passes_where_it_is_spoken() {
        let datagram = with(0, &[0x88, 0x48, 0xab, 0xcd]);
        assert_eq!(open(&vtep(), &datagram), Err(DropReason::ReservedBits));
        assert_eq!(open(&Vtep { gbp: true, ..vtep() }, &datagram), Ok(22..122));
    }
}
