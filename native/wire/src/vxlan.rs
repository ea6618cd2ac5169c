//! VXLAN header: check and emit.
//!
//! Path of a packet: underlay → `io` → `core::inbound` → **`wire::vxlan`** → `wire::ethernet`.
//!
//! Source: RFC 7348 §5; draft-smith-vxlan-group-policy-05 §2.1; linux drivers/net/vxlan
//! (bits that are not known lead to a drop, though the RFC would have them ignored).

use core::fmt;

/// Length on the wire, in bytes.
pub const LEN: usize = 8;

/// The I flag: the VNI is there.
const FLAG_VNI: u32 = 0x0800_0000;

/// Group policy: the G flag, "do not learn", "policy applied", and the group itself.
const GROUP_POLICY: u32 = 0x8048_ffff;

/// A VXLAN network identifier: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vni(u32);

impl Vni {
    /// Number of the largest one.
    pub const MAX: u32 = 0x00ff_ffff;

    /// Returns the identifier of that number, if it has no more than 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// Returns its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns the header of a frame in network `vni`.
pub const fn emit(vni: Vni) -> [u8; LEN] {
    let [f0, f1, f2, f3] = FLAG_VNI.to_be_bytes();
    let [v0, v1, v2, v3] = (vni.0 << 8).to_be_bytes();
    [f0, f1, f2, f3, v0, v1, v2, v3]
}

/// Checks that `header` belongs to a frame in network `vni`. With `gbp` the bits of the group
/// policy are let pass.
///
/// # Errors
///
/// [`Fault`]: the first, in the order in which the kernel looks.
pub const fn check(header: [u8; LEN], vni: Vni, gbp: bool) -> Result<(), Fault> {
    let [f0, f1, f2, f3, v0, v1, v2, v3] = header;
    let flags = u32::from_be_bytes([f0, f1, f2, f3]);
    let known = if gbp { FLAG_VNI | GROUP_POLICY } else { FLAG_VNI };
    if flags & FLAG_VNI == 0 {
        return Err(Fault::NoVni);
    }
    if u32::from_be_bytes([0, v0, v1, v2]) != vni.0 {
        return Err(Fault::OtherVni);
    }
    if flags & !known != 0 || v3 != 0 {
        return Err(Fault::ReservedBits);
    }
    Ok(())
}

/// Why a frame is not for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The I flag is clear.
    NoVni,
    /// It is in another network.
    OtherVni,
    /// Bits are set that have no meaning here.
    ReservedBits,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN: Vni = Vni(7);

    #[test]
    fn the_header_is_that_of_the_rfc() {
        // RFC 7348 §5: flags R R R R I R R R, 24 reserved bits, VNI, 8 reserved bits.
        assert_eq!(emit(Vni(0x12_3456)), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(emit(Vni::new(Vni::MAX).unwrap()), [0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }

    #[test]
    fn what_was_emitted_is_taken_by_its_network_only() {
        for number in [0, 1, 7, 0x12_3456, Vni::MAX] {
            let vni = Vni(number);
            assert_eq!(check(emit(vni), vni, false), Ok(()));
            assert_eq!(check(emit(vni), Vni(number ^ 0x100), false), Err(Fault::OtherVni));
        }
    }

    #[test]
    fn every_other_bit_is_reserved_but_for_those_of_the_group_policy() {
        // The draft's G, D and A flags and the group ID, by their numbers from the left.
        let group_policy = |bit: usize| matches!(bit, 0 | 9 | 12 | 16..32);
        for bit in (0..32).chain(56..64) {
            let mut header = emit(SEVEN);
            header[bit / 8] ^= 0x80 >> (bit % 8);
            let expected = if bit == 4 { Err(Fault::NoVni) } else { Err(Fault::ReservedBits) };
            assert_eq!(check(header, SEVEN, false), expected, "bit {bit}");
            let expected = if group_policy(bit) { Ok(()) } else { expected };
            assert_eq!(check(header, SEVEN, true), expected, "bit {bit} with group policy");
        }
    }
}
