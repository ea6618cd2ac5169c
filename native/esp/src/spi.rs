//! Security parameter indexes, and what arrives on the port of encryption.
//!
//! Path of a packet: underlay → `io` → **`spi`** → `sa` or the handshake.
//! An SPI is `11`, 24 random bits, and 6 bits that number the lane. Its first two bits keep it
//! apart from the handshake, and from IP, VXLAN, STUN, DTLS and RTP.
//!
//! Source: RFC 4303 §2.1, RFC 3948 §2.2 (marker of what is no ESP) and §2.3 (NAT keepalive).

use core::fmt;

use crate::packet;

/// Most lanes of one direction.
pub const LANES: u8 = 1 << LANE_BITS;

const LANE_BITS: u32 = 6;
const LANE_MASK: u32 = (1 << LANE_BITS) - 1;
const MARK: u32 = 0b11 << 30;

/// The 26 upper bits that all lanes of one direction share. The receiver chooses them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpiBase(u32);

impl SpiBase {
    /// Returns the base with the lower 24 of `random`'s bits.
    pub const fn of_random(random: u32) -> Self {
        Self(MARK | (random << LANE_BITS) & !MARK)
    }

    /// Returns the base of that number; `None` unless its first two bits are set and those of the
    /// lane are clear.
    pub const fn new(number: u32) -> Option<Self> {
        if number & MARK == MARK && number & LANE_MASK == 0 { Some(Self(number)) } else { None }
    }

    /// Returns its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the SPI of a lane; `None` from [`LANES`] on.
    pub const fn lane(self, lane: u8) -> Option<Spi> {
        if lane < LANES { Some(Spi(self.0 | lane as u32)) } else { None }
    }
}

impl fmt::Debug for SpiBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiBase({:#010x})", self.0)
    }
}

/// The index of one SA at its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spi(pub(crate) u32);

impl Spi {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 4;

    /// Returns the index of that number; `None` unless its first two bits are set.
    pub const fn new(number: u32) -> Option<Self> {
        if number & MARK == MARK { Some(Self(number)) } else { None }
    }

    /// Returns its number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns what it shares with the other lanes.
    pub const fn base(self) -> SpiBase {
        SpiBase(self.0 & !LANE_MASK)
    }

    /// Returns the number of its lane, below [`LANES`].
    pub const fn lane(self) -> u8 {
        (self.0 & LANE_MASK) as u8
    }

    /// Returns the index at the start of `datagram`, whatever its bits.
    pub(crate) fn at_start_of(datagram: &[u8]) -> Option<Self> {
        datagram.first_chunk().map(|bytes| Self(u32::from_be_bytes(*bytes)))
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({:#010x})", self.0)
    }
}

/// What a datagram on the port of encryption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody's NAT keepalive. It changes nothing.
    Keepalive,
    /// A message of the handshake, of any length.
    Handshake,
    /// A packet of the SA with that index.
    Data(Spi),
}

impl Kind {
    /// Tells what `datagram` is; `None` if it is malformed. What GRO joined must be split before.
    #[inline]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        if datagram == [0xff] {
            return Some(Self::Keepalive);
        }
        let spi = Spi::at_start_of(datagram)?;
        if spi.0 == 0 {
            return Some(Self::Handshake);
        }
        let spi = Spi::new(spi.0)?;
        if datagram.len() < packet::MIN_LEN { None } else { Some(Self::Data(spi)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_two_set_bits_24_random_ones_and_six_clear_ones() {
        assert_eq!(SpiBase::of_random(0).number(), 0xc000_0000);
        assert_eq!(SpiBase::of_random(1).number(), 0xc000_0040);
        assert_eq!(SpiBase::of_random(0x00ff_ffff).number(), 0xffff_ffc0);
        assert_eq!(SpiBase::of_random(0xff00_0000).number(), 0xc000_0000, "upper bits are cut");
    }

    #[test]
    fn a_base_from_a_peer_needs_its_mark_and_clear_lane_bits() {
        let base = SpiBase::of_random(0x12_3456);
        assert_eq!(SpiBase::new(base.number()), Some(base));
        for wrong in [0, 0x4000_0000, 0x8000_0000, 0x3fff_ffc0, 0xc000_0001, 0xc000_0020] {
            assert_eq!(SpiBase::new(wrong), None, "{wrong:#x}");
        }
    }

    #[test]
    fn the_lanes_of_a_base_are_64_and_lead_back_to_it() {
        let base = SpiBase::of_random(0xab_cdef);
        for lane in 0..64 {
            let spi = base.lane(lane).unwrap();
            assert_eq!((spi.base(), spi.lane()), (base, lane));
            assert_eq!(spi.number(), base.number() + u32::from(lane));
        }
        assert_eq!(base.lane(64), None);
    }

    #[test]
    fn each_datagram_is_told_apart_by_its_first_bytes() {
        let data = |first: u8, len: usize| {
            let mut datagram = vec![0x11; len];
            datagram[0] = first;
            datagram
        };
        assert_eq!(Kind::of(&[0xff]), Some(Kind::Keepalive));
        assert_eq!(Kind::of(&[0; 4]), Some(Kind::Handshake));
        assert_eq!(Kind::of(&[0; 204]), Some(Kind::Handshake));
        for first in 0xc0..=0xff {
            let spi = Spi(u32::from_be_bytes([first, 0x11, 0x11, 0x11]));
            assert_eq!(Kind::of(&data(first, 36)), Some(Kind::Data(spi)));
            assert_eq!(Kind::of(&data(first, 35)), None);
        }
        for first in 0..0xc0 {
            assert_eq!(Kind::of(&data(first, 100)), None, "{first:#x}");
        }
        for malformed in [&[][..], &[0], &[0xfe], &[0, 0, 0], &[0xff, 0xff], &[0xff; 35]] {
            assert_eq!(Kind::of(malformed), None, "{malformed:?}");
        }
    }
}
