//! What is measured: each case is some packets through one part of the core.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tunneld_core::coalescing::Kinds;
use tunneld_core::encapsulation::Via;
use tunneld_core::fib::Fib;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::prefix::Prefix;
use tunneld_wire::checksum::Sum;
use tunneld_wire::ip;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};

use crate::aead;
use crate::esp;
use crate::packets::{Chosen, PEER, fib, framed, packet, vxlan_fib};
use crate::sealed;

/// Source: MTU 1500 without the outer headers, then without inner IPv4 and TCP.
const MTU: usize = 1_472;
pub(crate) const NOW_NS: u64 = 1_000_000_000;
/// As many packets in turn, so that their bytes come from a cache further away than the first.
pub(crate) const BATCH: usize = 64;
const TRAIN: usize = 44;

/// One case; `run` takes `packets` packets through it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) packets: usize,
    pub(crate) run: Box<dyn FnMut()>,
}

pub(crate) type Maker = Box<dyn FnOnce() -> (usize, Box<dyn FnMut()>)>;

/// Returns the cases whose names are wanted.
pub(crate) fn cases(is_wanted: impl Fn(&str) -> bool) -> Vec<Case> {
    let mut makers: Vec<(String, Maker)> = Vec::new();
    for (family, v6) in [("", false), ("v6 ", true)] {
        for (layout, scattered) in [("", false), ("scattered ", true)] {
            for (law, zipf) in [("zipf", true), ("uniform", false)] {
                // One after the other: they are compared in every round.
                for count in [1_000, 1_000_000] {
                    let name = format!("lookup {family}{layout}{law} {count}");
                    let subnets = Subnets { v6, scattered };
                    makers.push((name, Box::new(move || lookup(count, zipf, subnets))));
                }
            }
        }
    }
    for len in [64, 512, 1_400, 65_535] {
        makers.push((format!("checksum {len}"), Box::new(move || checksum(len))));
        makers.push((format!("copy and checksum {len}"), Box::new(move || copy(len))));
    }
    for len in [64, 512, 1_400] {
        let fib = || fib(std::iter::empty());
        makers.push((format!("encapsulate {len}"), Box::new(move || encapsulate(fib(), len))));
    }
    for len in [64, 512, 1_400] {
        let name = format!("encapsulate vxlan {len}");
        makers.push((name, Box::new(move || encapsulate(vxlan_fib(), len))));
    }
    for len in [64, 512, 1_400] {
        let fib = || fib(std::iter::empty());
        makers.push((format!("segment {len}"), Box::new(move || segment(fib(), len))));
    }
    for len in [64, 512, 1_400] {
        let name = format!("segment vxlan {len}");
        makers.push((name, Box::new(move || segment(vxlan_fib(), len))));
    }
    for (kind, on) in [("coalesce", true), ("accept singly", false)] {
        for len in [64, 512, 1_400] {
            let fib = || fib(std::iter::empty());
            let raw = move || arrive(fib(), len, on, <[u8]>::to_vec);
            makers.push((format!("{kind} {len}"), Box::new(raw)));
        }
    }
    for len in [64, 512, 1_400] {
        let vxlan = move || arrive(vxlan_fib(), len, true, framed);
        makers.push((format!("coalesce vxlan {len}"), Box::new(vxlan)));
    }
    makers.extend(sealed::makers());
    makers.extend(aead::makers());
    makers.extend(esp::makers());
    let chosen = makers.into_iter().filter(|(name, _)| is_wanted(name));
    let make = |(name, make): (String, Maker)| {
        let (packets, run) = make();
        Case { name, packets, run }
    };
    chosen.map(make).collect()
}

/// Where the prefixes of a table lie, each at a place by chance.
#[derive(Clone, Copy)]
struct Subnets {
    v6: bool,
    /// Over all of IPv4, or 2^24 of /64; else in one network that has 2^20 subnets, as those of
    /// an overlay do.
    scattered: bool,
}

impl Subnets {
    const fn length(self) -> u8 {
        match self {
            Self { v6: true, .. } => 64,
            Self { scattered: true, .. } => 24,
            Self { scattered: false, .. } => 28,
        }
    }

    /// Returns an address of subnet `number`. An odd factor makes each number another subnet.
    fn address(self, number: usize, host: u8) -> IpAddr {
        let mixed = (number as u32).wrapping_mul(0x9e_3779);
        let (number, host) = match self.scattered {
            true => (mixed & 0xff_ffff, host),
            false => (mixed & 0xf_ffff, host & 0xf),
        };
        if self.v6 {
            let subnet = 0xfd << 120 | u128::from(number) << 64;
            return Ipv6Addr::from_bits(subnet | u128::from(host)).into();
        }
        let base = if self.scattered { 0 } else { 10 << 24 };
        Ipv4Addr::from_bits(base | number << (32 - self.length()) | u32::from(host)).into()
    }
}

/// Lookups in batches, with destinations by Zipf's law or all alike.
fn lookup(count: usize, zipf: bool, subnets: Subnets) -> (usize, Box<dyn FnMut()>) {
    const DESTINATIONS: usize = 1 << 18;
    let mut chosen = Chosen(7);
    let prefix = |number| Prefix::new(subnets.address(number, 0), subnets.length()).ok();
    let fib = fib((0..count).filter_map(prefix));
    let mut reached = Vec::with_capacity(count);
    let mut total = 0.0;
    for rank in 1..=count {
        total += if zipf { 1.0 / rank as f64 } else { 1.0 };
        reached.push(total);
    }
    let destinations: Vec<_> = (0..DESTINATIONS)
        .map(|_| {
            let place = chosen.next() as f64 / u64::MAX as f64 * total;
            let number = reached.partition_point(|reached| *reached < place).min(count - 1);
            subnets.address(number, chosen.next() as u8)
        })
        .collect();
    let mut at = 0;
    let run = move || {
        for destination in &destinations[at..at + BATCH] {
            black_box(fib.lookup(*destination));
        }
        at = (at + BATCH) % DESTINATIONS;
    };
    (BATCH, Box::new(run))
}

fn checksum(len: usize) -> (usize, Box<dyn FnMut()>) {
    let bytes = vec![0x5a; len];
    let run = move || {
        black_box(Sum::new().with(black_box(&bytes)).checksum());
    };
    (1, Box::new(run))
}

fn copy(len: usize) -> (usize, Box<dyn FnMut()>) {
    let (bytes, mut to) = (vec![0x5a; len], vec![0; len + 1_088]);
    let run = move || {
        let to = black_box(&mut to[1_088..]);
        black_box(Sum::new().with_copy(to, black_box(&bytes)).checksum());
    };
    (1, Box::new(run))
}

/// Packets that come one by one, on their way out.
pub(crate) fn encapsulate(fib: Fib, len: usize) -> (usize, Box<dyn FnMut()>) {
    let bytes = packet(ip::PROTOCOL_UDP, len, 0, false);
    let mut outbound = Outbound::new(0, Arc::default());
    let run = move || {
        for _ in 0..BATCH {
            if !outbound.batch().has_room() {
                outbound.clear();
            }
            outbound.handle(&fib, VnetHeader::default(), black_box(&bytes), NOW_NS);
        }
        black_box(outbound.batch().queues()[0].trains().len());
        outbound.clear();
    };
    (BATCH, Box::new(run))
}

/// Super-packets with segments of `len` bytes, on their way out.
pub(crate) fn segment(fib: Fib, len: usize) -> (usize, Box<dyn FnMut()>) {
    let (vnet, whole, count) = super_packet(len);
    let mut outbound = Outbound::new(0, Arc::default());
    let run = move || {
        outbound.handle(&fib, vnet, black_box(&whole), NOW_NS);
        black_box(outbound.batch().queues()[0].trains().len());
        outbound.clear();
    };
    (count, Box::new(run))
}

/// Returns a super-packet with segments of `len` bytes, and how many there are.
pub(crate) fn super_packet(len: usize) -> (VnetHeader, Vec<u8>, usize) {
    let payload_len = len - 40;
    let count = TRAIN.min((65_535 - 40) / payload_len);
    let whole = packet(ip::PROTOCOL_TCP, 40 + count * payload_len, 0, false);
    let vnet = VnetHeader {
        flags: 1,
        gso: Gso::TcpV4,
        gso_size: payload_len as u16,
        checksum_start: 20,
        checksum_offset: 16,
        ..VnetHeader::default()
    };
    (vnet, whole, count)
}

/// A train of packets that arrive, each as `around` makes it, joined to a super-packet or not.
fn arrive(
    fib: Fib,
    len: usize,
    joined: bool,
    around: fn(&[u8]) -> Vec<u8>,
) -> (usize, Box<dyn FnMut()>) {
    debug_assert!(len <= MTU);
    let packets = (0..TRAIN).map(|number| around(&packet(ip::PROTOCOL_TCP, len, number, true)));
    let train: Vec<u8> = packets.flatten().collect();
    let len = train.len() / TRAIN;
    let mut memory = train.clone();
    let mut inbound = Inbound::new(0, Arc::default());
    inbound.set_coalescing(Kinds { tcp: joined, udp: joined });
    let run = move || {
        // A hop is taken in place: the headers are put back as they came.
        for start in (0..train.len()).step_by(len) {
            memory[start..start + 20].copy_from_slice(&train[start..start + 20]);
        }
        let place = 0..memory.len();
        inbound.handle(&fib, Via::Plain, PEER, black_box(&mut memory), place, Some(len), NOW_NS);
        let batch = inbound.deliveries();
        for delivery in batch.iter() {
            black_box(batch.headers(delivery, &memory));
        }
        inbound.clear();
    };
    (TRAIN, Box::new(run))
}
