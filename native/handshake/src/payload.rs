//! What both sides tell each other under the handshake's seal, in 64 bytes.
//!
//! Bytes that are zero in this version are written as zeros and not looked at.
//!
//! Source: TAI64N, D. J. Bernstein, "TAI64, TAI64N, and TAI64NA".

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::psk;

/// Bytes of a payload before it is sealed.
pub const LEN: usize = 64;

/// Lanes that one direction may have at most.
pub const MOST_LANES: u8 = 64;

/// The bits of an SPI that are its lane.
const LANE_BITS: u32 = 0x3f;
/// The bits that every SPI has.
const SPI_BITS: u32 = 0xc000_0000;

/// Seconds of TAI64 at the Unix epoch, without leap seconds: those matter to no comparison.
const TAI64_EPOCH: u64 = 0x4000_0000_0000_000a;

/// A time of day that orders the initiations of one identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp(pub [u8; 12]);

impl Timestamp {
    /// Takes nanoseconds since the Unix epoch.
    pub fn of_unix_ns(unix_ns: u64) -> Self {
        let mut bytes = [0; 12];
        let seconds = TAI64_EPOCH + unix_ns / 1_000_000_000;
        let nanoseconds = (unix_ns % 1_000_000_000) as u32;
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }

    /// Returns the least timestamp that is greater, as numbers of 12 bytes go.
    pub fn successor(self) -> Self {
        let mut bytes = self.0;
        for byte in bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        Self(bytes)
    }
}

/// The subnets that a node says it holds, as address and prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claim {
    /// The IPv4 subnet, if it has one.
    pub v4: Option<(Ipv4Addr, u8)>,
    /// The IPv6 subnet, if it has one.
    pub v6: Option<(Ipv6Addr, u8)>,
}

/// A payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// When the initiation was made; zero in a response.
    pub timestamp: Timestamp,
    /// Random, one for each start of a process.
    pub instance: [u8; 8],
    /// The upper 26 bits of the SPIs that the sender of this listens to.
    pub spi_base: u32,
    /// How many lanes the sender of this seals with, 1 to 64.
    pub lanes: u8,
    /// What the sender takes, bit n for cipher n.
    pub ciphers: u8,
    /// The cipher preferred (initiation) or chosen (response).
    pub cipher: u8,
    /// What the sender says it holds.
    pub claim: Claim,
    /// The PSKs that an initiator has; zeros in a response.
    pub psks: [psk::Id; psk::MOST],
}

/// Returns whether a number can stand for the SPIs of a set.
pub fn is_spi_base(spi: u32) -> bool {
    spi & SPI_BITS == SPI_BITS && spi & LANE_BITS == 0
}

/// Returns an SPI base of 24 random bits.
pub fn spi_base(random: u32) -> u32 {
    SPI_BITS | ((random << 6) & !SPI_BITS)
}

impl Payload {
    /// Writes the payload.
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..12].copy_from_slice(&self.timestamp.0);
        out[12..20].copy_from_slice(&self.instance);
        out[20..24].copy_from_slice(&self.spi_base.to_be_bytes());
        // Byte 27 is for flags, of which there are none yet.
        out[24..27].copy_from_slice(&[self.lanes, self.ciphers, self.cipher]);
        if let Some((address, len)) = self.claim.v4 {
            out[28..32].copy_from_slice(&address.octets());
            out[32] = len;
        }
        if let Some((address, len)) = self.claim.v6 {
            out[33] = len;
            out[36..52].copy_from_slice(&address.octets());
        }
        out[52..56].copy_from_slice(&self.psks[0]);
        out[56..60].copy_from_slice(&self.psks[1]);
        out
    }

    /// Reads a payload; `None` if it is no payload that this version can answer.
    pub fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let spi_base = u32::from_be_bytes(field(bytes, 20));
        let lanes = bytes[24];
        let (v4_len, v6_len) = (bytes[32], bytes[33]);
        let is_right = is_spi_base(spi_base)
            && (1..=MOST_LANES).contains(&lanes)
            && v4_len <= 32
            && v6_len <= 128;
        // A subnet of length zero would be the whole Internet: it stands for none.
        let v4 = (v4_len > 0).then(|| (Ipv4Addr::from(field::<4>(bytes, 28)), v4_len));
        let v6 = (v6_len > 0).then(|| (Ipv6Addr::from(field::<16>(bytes, 36)), v6_len));
        is_right.then(|| Self {
            timestamp: Timestamp(field(bytes, 0)),
            instance: field(bytes, 12),
            spi_base,
            lanes,
            ciphers: bytes[25],
            cipher: bytes[26],
            claim: Claim { v4, v6 },
            psks: [field(bytes, 52), field(bytes, 56)],
        })
    }
}

/// Returns `N` bytes from a place within a message whose length is known.
pub(crate) fn field<const N: usize>(bytes: &[u8], place: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[place..place + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload {
            timestamp: Timestamp::of_unix_ns(1_500_000_000_000_000_007),
            instance: *b"instance",
            spi_base: 0xc123_4540,
            lanes: 3,
            ciphers: 0b1110,
            cipher: 3,
            claim: Claim {
                v4: Some(([10, 5, 1, 0].into(), 24)),
                v6: Some(("fd00:1::".parse().unwrap(), 64)),
            },
            psks: [[1, 2, 3, 4], [5, 6, 7, 8]],
        }
    }

    /// By the table of the specification, written by hand.
    const BYTES: &str = "4000000059682f0a00000007 696e7374616e6365 c1234540 03 0e 03 00 \
        0a050100 18 40 0000 fd000001000000000000000000000000 01020304 05060708 00000000";

    fn bytes() -> [u8; LEN] {
        let digits: Vec<u8> = BYTES.bytes().filter(|digit| *digit != b' ').collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn every_field_has_its_place() {
        assert_eq!(payload().emit(), bytes());
        assert_eq!(Payload::parse(&bytes()), Some(payload()));
    }

    #[test]
    fn bytes_of_later_versions_are_not_looked_at() {
        let mut later = bytes();
        for place in [27, 34, 35, 60, 63] {
            later[place] = 0xff;
        }
        assert_eq!(Payload::parse(&later), Some(payload()));
    }

    #[test]
    fn spis_lanes_and_lengths_that_cannot_be_are_refused() {
        for (place, value) in
            [(20, 0x41), (20, 0x81), (23, 0x41), (24, 0), (24, 65), (32, 33), (33, 129)]
        {
            let mut wrong = bytes();
            wrong[place] = value;
            assert_eq!(Payload::parse(&wrong), None, "byte {place} is {value}");
        }
    }

    #[test]
    fn spi_bases_are_two_ones_and_24_random_bits() {
        assert_eq!(spi_base(0), 0xc000_0000);
        assert_eq!(spi_base(u32::MAX), 0xffff_ffc0);
        assert!(is_spi_base(spi_base(0x1234_5678)));
    }
}
