//! What is tried, and the rules that must hold whatever comes in.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile, Via, Vtep};
use tunneld_core::fib::{Fib, Settings, SourceCheck};
use tunneld_core::inbound::{Inbound, Outer};
use tunneld_core::outbound::Outbound;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::ecn::Ecn;
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::ip::{self, Version};
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::vxlan::Vni;
use tunneld_wire::{ipv4, ipv6};

use crate::esp;
use crate::handshake::Handshake;
use crate::mutate::digest;
use crate::rules::{MTU_BYTES, PEER, apart, drops, forget, inbound};
use crate::sealed::Sealed;

/// Between two inputs: the limit on ICMP errors forgets the one before.
const STEP_NS: u64 = 1_000_000_000;

/// One of the ways in. What becomes of an input hangs on that input alone, though the half of the
/// worker is made once: making it takes many times as long as an input.
pub(crate) struct Target {
    name: &'static str,
    fib: Fib,
    half: Half,
    now_ns: u64,
}

/// The half of a worker that takes the inputs.
enum Half {
    Inbound(Box<Inbound>),
    Outbound(Outbound),
    /// Each input has SAs of its own.
    Esp,
    Sealed(Box<Sealed>),
    /// Each input meets a node of its own.
    Handshake(Handshake),
}

impl Target {
    /// Returns `datagrams` or `vxlan` (two bytes, the upper two bits a congestion mark and
    /// the others a segment length, then a message of the underlay, raw or VXLAN) or `vnet` (a virtio_net_hdr, then a packet of the device), or
    /// `esp`, or `sealed` (see [`Sealed::run`]), or `handshake` (see [`Handshake::run`]).
    pub(crate) fn named(name: &str) -> Option<Self> {
        let (name, half, vtep) = match name {
            "datagrams" => ("datagrams", Half::Inbound(Box::new(inbound())), None),
            "vxlan" => ("vxlan", Half::Inbound(Box::new(inbound())), Some(vtep()?)),
            "vnet" => ("vnet", Half::Outbound(Outbound::new(0, Arc::default())), None),
            "esp" => ("esp", Half::Esp, None),
            "sealed" => ("sealed", Half::Sealed(Box::new(Sealed::new(change(None)?)?)), None),
            "handshake" => ("handshake", Half::Handshake(Handshake::new()?), None),
            _ => return None,
        };
        Some(Self { name, fib: fib(vtep)?, half, now_ns: 0 })
    }

    /// Returns such a target that has seen no input.
    pub(crate) fn anew(&self) -> Option<Self> {
        Self::named(self.name)
    }

    /// Takes an input through; returns a number for what became of it.
    ///
    /// # Errors
    ///
    /// The rule that was broken.
    pub(crate) fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        self.now_ns += STEP_NS;
        match &mut self.half {
            Half::Inbound(inbound) => {
                inbound.clear();
                forget(inbound.counters());
                datagrams(inbound, &self.fib, input, self.now_ns)
            }
            Half::Outbound(outbound) => {
                outbound.clear();
                forget(outbound.counters());
                vnet(outbound, &self.fib, input, self.now_ns)
            }
            Half::Esp => esp::run(input),
            Half::Sealed(sealed) => sealed.run(input),
            Half::Handshake(handshake) => handshake.run(input),
        }
    }
}

fn vtep() -> Option<Vtep> {
    Some(Vtep {
        vni: Vni::new(1)?,
        gbp: true,
        mac: Some(MacAddress([0x0e, 0x2a, 0, 0, 0, 1])),
        mac_v6: Some(MacAddress([0x0e, 0x2a, 0, 0, 6, 1])),
    })
}

fn fib(vtep: Option<Vtep>) -> Option<Fib> {
    Tables::new(1).commit(change(vtep)?).ok()
}

fn change(vtep: Option<Vtep>) -> Option<Change> {
    let peer = Parameters {
        encapsulation: Encapsulation::Raw,
        endpoint: PEER,
        mtu_bytes: MTU_BYTES,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    Some(Change {
        settings: Some(Settings {
            source_check: SourceCheck::Strict,
            device_mtu_bytes: MTU_BYTES,
            icmp_source: Some(Ipv4Addr::new(10, 5, 1, 0)),
            icmp_source_v6: Some(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0)),
            vtep,
        }),
        put_adjacencies: vec![("peer".into(), peer)],
        put_entries: vec![
            ("10.5.1.0/24".parse().ok()?, TargetName::Local),
            ("10.5.2.0/24".parse().ok()?, TargetName::Adjacency("peer".into())),
            ("fd00:1::/64".parse().ok()?, TargetName::Local),
            ("fd00:2::/64".parse().ok()?, TargetName::Adjacency("peer".into())),
        ],
        ..Change::default()
    })
}

/// A message splits into packets that are accepted or dropped, each once.
fn datagrams(inbound: &mut Inbound, fib: &Fib, input: &[u8], now_ns: u64) -> Result<u64, String> {
    let Some((len, message)) = input.split_first_chunk::<2>() else { return Ok(0) };
    let first = u16::from_be_bytes(*len);
    let segment_len = Some(usize::from(first & 0x3fff)).filter(|len| *len > 0);
    let outer = Outer { source: PEER, ecn: Ecn::of((first >> 14) as u8) };
    let mut memory = message.to_vec();
    let place = 0..memory.len();
    inbound.handle(fib, Via::Plain, outer, &mut memory, place, segment_len, now_ns);
    let (delivered, shape) = apart(inbound, &memory)?;
    let (dropped, reasons) = drops(inbound.counters());
    if delivered + dropped != inbound.counters().packets.read() {
        return Err("packets are neither delivered nor dropped, or both".to_owned());
    }
    Ok(digest(&[shape, reasons].concat()))
}

/// A datagram holds one packet, and one that is larger than the peer's MTU only where it may be
/// fragmented on the way; the header checksum of a segment is right.
fn is_packet<H: ip::Header>(payload: &[u8], is_segment: bool) -> Result<(), String> {
    let header = H::parse(payload).map_err(|error| format!("a datagram is no packet: {error}"))?;
    if is_segment && !header.has_right_checksum(payload) {
        return Err("a segment has a wrong header checksum".to_owned());
    }
    if payload.len() > MTU_BYTES.into() && header.dont_fragment() && payload.len() > H::MIN_MTU {
        return Err(format!("a packet of {} bytes is sent", payload.len()));
    }
    Ok(())
}

/// A packet leaves as right packets, or is dropped once.
fn vnet(outbound: &mut Outbound, fib: &Fib, input: &[u8], now_ns: u64) -> Result<u64, String> {
    let Some((header, packet)) = input.split_first_chunk::<{ VnetHeader::LEN }>() else {
        return Ok(0);
    };
    let vnet = VnetHeader::parse(*header);
    outbound.handle(fib, vnet, packet, now_ns);
    let mut sent = 0usize;
    loop {
        for datagram in outbound.batch().datagrams() {
            sent += 1;
            let is_segment = vnet.gso != tunneld_wire::virtio_net_hdr::Gso::None;
            if Version::of(datagram.payload) == Some(Version::V6) {
                is_packet::<ipv6::Header>(datagram.payload, is_segment)?;
            } else {
                is_packet::<ipv4::Header>(datagram.payload, is_segment)?;
            }
        }
        if !outbound.is_unfinished() {
            break;
        }
        outbound.clear();
        outbound.resume(fib, packet, now_ns);
    }
    let (dropped, reasons) = drops(outbound.counters());
    if (sent > 0) == (dropped > 0) || dropped > 1 {
        return Err(format!("{sent} packets are sent and {dropped} dropped"));
    }
    let bucket = sent.checked_ilog2().map_or(0, |bits| bits as u8 + 1);
    Ok(digest(&[vec![bucket, u8::from(vnet.needs_checksum())], reasons].concat()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::mutate::Mutator;

    const NAMES: [&str; 6] = ["datagrams", "vnet", "vxlan", "esp", "sealed", "handshake"];

    /// The inputs that are kept for a target, with their files.
    fn kept(name: &str) -> (Vec<PathBuf>, Vec<Vec<u8>>) {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/fuzz");
        let entries = std::fs::read_dir(corpora.join(name)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let inputs = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        (paths, inputs)
    }

    #[test]
    fn every_kept_input_keeps_the_rules() {
        for name in NAMES {
            let (paths, inputs) = kept(name);
            for (path, input) in paths.iter().zip(&inputs) {
                let outcome = Target::named(name).unwrap().run(input);
                assert!(outcome.is_ok(), "{}: {outcome:?}", path.display());
            }
            assert!(inputs.len() >= 10, "{} inputs of {name}", inputs.len());
        }
    }

    #[test]
    fn what_becomes_of_an_input_hangs_on_no_other() {
        for name in NAMES {
            let (paths, inputs) = kept(name);
            let alone = |input: &Vec<u8>| Target::named(name).unwrap().run(input);
            let expected: Vec<_> = inputs.iter().map(alone).collect();
            let mut target = Target::named(name).unwrap();
            let mut mutator = Mutator::new(7);
            for _ in 0..20 {
                for _ in 0..100 {
                    target.run(&mutator.change(&inputs)).unwrap();
                }
                for ((path, input), expected) in paths.iter().zip(&inputs).zip(&expected) {
                    assert_eq!(target.run(input), *expected, "{}", path.display());
                }
            }
        }
    }
}
