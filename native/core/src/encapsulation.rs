//! What goes around an inner packet, as a type that the outbound loop is generic over.
//!
//! Path of a packet: `outbound` → **`encapsulation`** → `batch`.
//! A datagram is `HEAD + inner + TAIL`; both lengths are known before a byte is written, so
//! that a slot can be laid out first and finished in place.

use tunneld_wire::ethernet::{self, MacAddress};
use tunneld_wire::ip::Version;
use tunneld_wire::vxlan;

use crate::fib::Vtep;

/// Puts an encapsulation around an inner packet that already stands in its slot.
pub trait Encapsulate {
    /// Bytes in front of the inner packet.
    const HEAD: usize;
    /// Most bytes behind it.
    const TAIL: usize;

    /// Hops that the tunnel takes off the inner packet at this end.
    const TAKES_HOP: bool;
    /// Whether a peer may send super-packets without cutting them.
    const ARRIVES_UNCUT: bool;

    /// Finishes `slot`, whose bytes from `HEAD` to `slot.len() - TAIL` are the inner packet, and
    /// returns the length of the datagram in bytes.
    fn finish(&self, slot: &mut [u8]) -> usize;
}

/// flannel's udp backend: the datagram is the inner packet.
#[derive(Debug, Clone, Copy)]
pub struct Raw;

impl Encapsulate for Raw {
    const HEAD: usize = 0;
    const TAIL: usize = 0;
    const TAKES_HOP: bool = true;
    const ARRIVES_UNCUT: bool = false;

    fn finish(&self, slot: &mut [u8]) -> usize {
        slot.len()
    }
}

/// flannel's vxlan backend: a VXLAN and an Ethernet header, as they stand in front of each packet.
///
/// Source: RFC 7348 §5; flannel `pkg/backend/vxlan` (each peer's inner address is in its lease).
#[derive(Debug, Clone, Copy)]
pub struct Vxlan([u8; Self::HEAD]);

impl Vxlan {
    /// Returns what goes from `vtep` to `peer` with packets of that version; `None` where `vtep`
    /// has no address for them.
    pub fn new(vtep: &Vtep, peer: MacAddress, version: Version) -> Option<Self> {
        let ethertype = match version {
            Version::V4 => ethernet::TYPE_IPV4,
            Version::V6 => ethernet::TYPE_IPV6,
            Version::Other(_) => return None,
        };
        let source = vtep.mac_for(version)?;
        let frame = ethernet::Header { destination: peer, source, ethertype };
        let mut head = [0; Self::HEAD];
        head[..vxlan::LEN].copy_from_slice(&vxlan::emit(vtep.vni));
        head[vxlan::LEN..].copy_from_slice(&frame.emit());
        Some(Self(head))
    }
}

impl Encapsulate for Vxlan {
    const HEAD: usize = vxlan::LEN + ethernet::Header::LEN;
    const TAIL: usize = 0;
    // The inner packet crosses one hop, as it were a link: only the hosts take their own.
    const TAKES_HOP: bool = false;
    const ARRIVES_UNCUT: bool = true;

    fn finish(&self, slot: &mut [u8]) -> usize {
        slot[..Self::HEAD].copy_from_slice(&self.0);
        slot.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MAC, MAC_B, MAC_V6, vtep};

    #[test]
    fn a_frame_says_network_addresses_and_version() {
        for (version, source, ethertype) in
            [(Version::V4, MAC, [0x08, 0x00]), (Version::V6, MAC_V6, [0x86, 0xdd])]
        {
            let mut slot = [0x55; 60];
            assert_eq!(Vxlan::new(&vtep(), MAC_B, version).unwrap().finish(&mut slot), 60);
            let expected =
                [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], &MAC_B.0, &source.0, &ethertype, &[0x55; 38]];
            assert_eq!(slot[..], expected.concat());
        }
    }

    #[test]
    fn a_family_without_an_address_has_no_frames() {
        let ipv4_only = Vtep { mac_v6: None, ..vtep() };
        assert!(Vxlan::new(&ipv4_only, MAC_B, Version::V4).is_some());
        assert!(Vxlan::new(&ipv4_only, MAC_B, Version::V6).is_none());
        assert!(Vxlan::new(&vtep(), MAC_B, Version::Other(5)).is_none());
    }
}
