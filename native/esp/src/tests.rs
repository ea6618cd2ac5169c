mod hostile;
mod life;
mod page;
mod providers;
mod vectors;
mod wycheproofs;

use crate::cipher::Cipher;
use crate::fault::Fault;
use crate::keys::{Key, Secret};
use crate::open::Opened;
use crate::packet::{Content, HEAD, TAIL};
use crate::provider::Provider;
use crate::sa::{InboundSa, OutboundSa};
use crate::spi::{Spi, SpiBase};

pub(crate) const NOW_NS: u64 = 1_000_000_000;

/// Repeatable pseudo-random numbers. Source: xorshift64*, Vigna 2016.
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed << 1 | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 3
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

pub(crate) fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

/// Both providers with each cipher.
pub(crate) fn combinations() -> impl Iterator<Item = (Provider, Cipher)> {
    let with = |provider: &Provider| {
        let provider = *provider;
        Cipher::ALL.iter().map(move |cipher| (provider, *cipher))
    };
    Provider::ALL.iter().flat_map(with)
}

pub(crate) fn base() -> SpiBase {
    SpiBase::of_random(0x12_3456)
}

pub(crate) fn spi(lane: u8) -> Spi {
    base().lane(lane).unwrap()
}

pub(crate) fn key(provider: Provider, cipher: Cipher) -> Key {
    Secret::new(&[0x42; 32]).key(provider, cipher, spi(0)).unwrap()
}

/// The two ends of one SA.
pub(crate) fn ends(provider: Provider, cipher: Cipher) -> (OutboundSa, InboundSa) {
    let sa = || key(provider, cipher);
    (OutboundSa::new(spi(0), sa(), NOW_NS), InboundSa::new(spi(0), sa(), NOW_NS))
}

/// An IPv4 packet of `len` bytes, of which each differs from the next.
pub(crate) fn ipv4(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|place| place as u8 ^ 0x35).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

/// An IPv6 packet of `len` bytes.
pub(crate) fn ipv6(len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|place| place as u8 ^ 0x53).collect();
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    packet
}

/// A slot with `payload` in its place, and rubbish around it.
pub(crate) fn slot(payload: &[u8]) -> Vec<u8> {
    [&[0xaa; HEAD], payload, &[0xbb; TAIL]].concat()
}

pub(crate) fn sealed(sa: &OutboundSa, content: Content, payload: &[u8]) -> Vec<u8> {
    let mut slot = slot(payload);
    let mut numbers = sa.reserve(1, NOW_NS).unwrap();
    let len = sa.seal(&mut numbers, content, &mut slot).unwrap();
    slot.truncate(len);
    slot
}

/// Opens a copy; returns what was in it.
pub(crate) fn opened(sa: &mut InboundSa, datagram: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut datagram = datagram.to_vec();
    let Opened { place, .. } = sa.open(&mut datagram, NOW_NS)?;
    Ok(datagram[place].to_vec())
}
