//! flannel's vxlan backend: a VXLAN and an Ethernet header in front of each packet.
//!
//! Source: RFC 7348 §4.1, §5; linux drivers/net/vxlan (what is dropped there is dropped here);
//! IEEE 802.3 §3.2.8 (short frames are padded); flannel `pkg/backend/vxlan` (each peer's inner
//! address is in its lease).

use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::ip::Version;
use tunneld_wire::vxlan::Vni;
use tunneld_wire::{ethernet, ip, vxlan};

use super::{Around, Decapsulate, Encapsulate, Origin, Stripped};
use crate::drop_reason::DropReason;

const HEAD: usize = vxlan::LEN + ethernet::Header::LEN;

/// This host as the end of VXLAN tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// The network.
    pub vni: Vni,
    /// Whether the bits of the group policy are let pass.
    pub gbp: bool,
    /// Inner Ethernet address of frames with IPv4; `None`: the network has no IPv4.
    pub mac: Option<MacAddress>,
    /// Inner Ethernet address of frames with IPv6; `None`: the network has no IPv6.
    pub mac_v6: Option<MacAddress>,
}

impl Vtep {
    /// Returns the inner Ethernet address of frames with packets of that version.
    pub const fn mac_for(&self, version: Version) -> Option<MacAddress> {
        match version {
            Version::V4 => self.mac,
            Version::V6 => self.mac_v6,
            Version::Other(_) => None,
        }
    }

    /// Returns whether this is one of its own addresses.
    pub fn owns(&self, mac: MacAddress) -> bool {
        self.mac == Some(mac) || self.mac_v6 == Some(mac)
    }
}

/// The headers in front of an inner packet.
type Head = [u8; HEAD];

/// The headers as they stand in front of each packet to one peer, by the packet's version.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    ipv4: Option<Head>,
    ipv6: Option<Head>,
}

impl Heads {
    /// Returns what goes from `vtep` to `peer`: nothing of a version that `vtep` has no address for.
    pub fn new(vtep: Option<&Vtep>, peer: MacAddress) -> Self {
        let head = |version, ethertype| {
            let vtep = vtep?;
            let frame =
                ethernet::Header { destination: peer, source: vtep.mac_for(version)?, ethertype };
            let mut head = [0; HEAD];
            head[..vxlan::LEN].copy_from_slice(&vxlan::emit(vtep.vni));
            head[vxlan::LEN..].copy_from_slice(&frame.emit());
            Some(head)
        };
        Self {
            ipv4: head(Version::V4, ethernet::TYPE_IPV4),
            ipv6: head(Version::V6, ethernet::TYPE_IPV6),
        }
    }
}

impl Encapsulate for Heads {
    const HEAD: usize = HEAD;
    const TAIL: usize = 0;
    // The inner packet crosses one hop, as it were a link: only the hosts take their own.
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = true;

    type Around<'a> = &'a Head;

    #[inline]
    fn begin(&self, _: usize, version: Version, _: usize, _: u64) -> Result<&Head, DropReason> {
        match version {
            Version::V6 => self.ipv6.as_ref().ok_or(DropReason::Ipv6Disabled),
            _ => self.ipv4.as_ref().ok_or(DropReason::Ipv4Disabled),
        }
    }

    fn inner(datagram: &[u8]) -> Option<&[u8]> {
        datagram.get(HEAD..)
    }

    fn largest_inner(len: usize) -> usize {
        len.saturating_sub(HEAD)
    }
}

impl Around for &Head {
    #[inline]
    fn finish(&mut self, slot: &mut [u8]) -> Result<usize, DropReason> {
        slot[..HEAD].copy_from_slice(*self);
        Ok(slot.len())
    }
}

/// Frames that arrive for this host.
#[derive(Debug, Clone, Copy)]
pub struct Frames {
    vtep: Vtep,
}

impl Frames {
    /// Takes frames for `vtep`.
    pub const fn new(vtep: Vtep) -> Self {
        Self { vtep }
    }

    /// Returns the version that `head` announces, if it is for us.
    fn check(&self, head: &Head) -> Result<Version, DropReason> {
        let vtep = &self.vtep;
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
}

impl Decapsulate for Frames {
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = true;

    /// Headers that were checked, with the version they announce: mostly the next ones are the same.
    type Run = Option<(Head, Version)>;

    /// The kernel says how long the datagrams are. But a peer whose kernel leaves cutting to a later
    /// device, as its VXLAN does on a virtual link, sends a super-packet in one datagram, and with it
    /// comes the size of the *inner* segments. Then the first inner packet is all there is: its length
    /// is the message's, to the byte. Any other length says nothing about the datagrams behind it. One
    /// that lies so that it is that very length costs its own sender the rest; the bytes behind are
    /// never looked at as frames, as they may be what a container wrote.
    fn split_len(&self, message: &[u8], segment_len: Option<usize>) -> usize {
        let whole = message.len().max(1);
        let Some(segment_len) = segment_len.filter(|len| *len > 0) else { return whole };
        let first = message.get(HEAD..).and_then(ip::packet_len);
        let is_one = first.is_some_and(|first| HEAD + first == message.len());
        if is_one { whole } else { segment_len }
    }

    #[inline]
    fn strip(
        &self,
        run: &mut Self::Run,
        datagram: &mut [u8],
        _: u64,
    ) -> Result<Stripped, DropReason> {
        let (head, packet) = datagram.split_first_chunk().ok_or(DropReason::TruncatedFrame)?;
        let version = match run {
            Some((checked, version)) if checked == head => *version,
            _ => {
                let version = self.check(head)?;
                *run = Some((*head, version));
                version
            }
        };
        match Version::of(packet) {
            Some(found) if found != version => return Err(DropReason::EthertypeMismatch),
            _ => {}
        }
        // What is behind is padding of a short frame.
        let len = ip::packet_len(packet).filter(|len| *len < packet.len()).unwrap_or(packet.len());
        Ok(Stripped::Packet { place: HEAD..HEAD + len, origin: Origin::Address })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::testing::{MAC, MAC_B, MAC_V6, framed, packet, vtep};

    /// Datagrams of one batch that arrive at `vtep`.
    struct Batch {
        vtep: Vtep,
        run: Option<(Head, Version)>,
    }

    impl Batch {
        fn open(&mut self, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
            match Frames::new(self.vtep).strip(&mut self.run, &mut datagram.to_vec(), 0)? {
                Stripped::Packet { place, origin: Origin::Address } => Ok(place),
                other => panic!("{other:?}"),
            }
        }
    }

    fn open(vtep: &Vtep, datagram: &[u8]) -> Result<Range<usize>, DropReason> {
        Batch { vtep: *vtep, run: None }.open(datagram)
    }

    #[test]
    fn a_frame_says_network_addresses_and_version() {
        let heads = Heads::new(Some(&vtep()), MAC_B);
        for (version, source, ethertype) in
            [(Version::V4, MAC, [0x08, 0x00]), (Version::V6, MAC_V6, [0x86, 0xdd])]
        {
            let mut slot = [0x55; 60];
            assert_eq!(heads.begin(0, version, 1, 0).unwrap().finish(&mut slot), Ok(60));
            let expected =
                [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], &MAC_B.0, &source.0, &ethertype, &[0x55; 38]];
            assert_eq!(slot[..], expected.concat());
        }
    }

    #[test]
    fn a_family_without_an_address_has_no_frames() {
        let ipv4_only = Heads::new(Some(&Vtep { mac_v6: None, ..vtep() }), MAC_B);
        assert!(ipv4_only.begin(0, Version::V4, 1, 0).is_ok());
        assert_eq!(ipv4_only.begin(0, Version::V6, 1, 0), Err(DropReason::Ipv6Disabled));
        let none = Heads::new(None, MAC_B);
        assert_eq!(none.begin(0, Version::V4, 1, 0), Err(DropReason::Ipv4Disabled));
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
            let mut batch = Batch { vtep: vtep(), run: None };
            assert_eq!(batch.open(&good()), Ok(22..122));
            assert_eq!(batch.open(&datagram), Err(reason));
            assert_eq!(batch.open(&good()), Ok(22..122));
        }
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
