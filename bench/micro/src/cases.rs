//! What is measured: each case is some packets through one part of the core.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tunneld_core::coalescing::Kinds;
use tunneld_core::fib::Fib;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::prefix::Prefix;
use tunneld_wire::checksum::Sum;
use tunneld_wire::ip;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};

use crate::packets::{Chosen, PEER, fib, framed, packet, vxlan_fib};

/// Source: MTU 1500 without the outer headers, then without inner IPv4 and TCP.
const MTU: usize = 1_472;
const NOW_NS: u64 = 1_000_000_000;
const BATCH: usize = 64;
const TRAIN: usize = 44;

/// One case; `run` takes `packets` packets through it.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) packets: usize,
    pub(crate) run: Box<dyn FnMut()>,
}

type Maker = Box<dyn FnOnce() -> (usize, Box<dyn FnMut()>)>;

/// Returns the case of that name, or all of them.
pub(crate) fn cases(wanted: &str) -> Vec<Case> {
    let mut makers: Vec<(String, Maker)> = Vec::new();
    for count in [1_000, 1_000_000] {
        for (law, zipf) in [("zipf", true), ("uniform", false)] {
            let name = format!("lookup {law} {count}");
            makers.push((name, Box::new(move || lookup(count, zipf, false))));
        }
        for (law, zipf) in [("zipf", true), ("uniform", false)] {
            let name = format!("lookup v6 {law} {count}");
            makers.push((name, Box::new(move || lookup(count, zipf, true))));
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
    let chosen = makers.into_iter().filter(|(name, _)| wanted.is_empty() || name == wanted);
    let make = |(name, make): (String, Maker)| {
        let (packets, run) = make();
        Case { name, packets, run }
    };
    chosen.map(make).collect()
}

/// Lookups in batches, with destinations by Zipf's law or all alike.
fn lookup(count: usize, zipf: bool, v6: bool) -> (usize, Box<dyn FnMut()>) {
    const DESTINATIONS: usize = 1 << 18;
    let mut chosen = Chosen(7);
    // An odd factor makes each number below 2^24 another prefix of 24 bits; over IPv6 the same
    // bits are the last of a /64 within fd00::/40.
    let address = |number: usize, host: u8| -> IpAddr {
        let bits = (number as u32).wrapping_mul(0x9e_3779) << 8;
        if v6 {
            Ipv6Addr::from_bits(0xfd << 120 | u128::from(bits) << 56 | u128::from(host)).into()
        } else {
            Ipv4Addr::from_bits(bits | u32::from(host)).into()
        }
    };
    let length = if v6 { 64 } else { 24 };
    let prefixes = (0..count).filter_map(|number| Prefix::new(address(number, 0), length).ok());
    let fib = fib(prefixes);
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
            address(number, chosen.next() as u8)
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
fn encapsulate(fib: Fib, len: usize) -> (usize, Box<dyn FnMut()>) {
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
fn segment(fib: Fib, len: usize) -> (usize, Box<dyn FnMut()>) {
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
    let mut outbound = Outbound::new(0, Arc::default());
    let run = move || {
        outbound.handle(&fib, vnet, black_box(&whole), NOW_NS);
        black_box(outbound.batch().queues()[0].trains().len());
        outbound.clear();
    };
    (count, Box::new(run))
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
        inbound.handle(&fib, PEER, black_box(&mut memory), place, Some(len), NOW_NS);
        let batch = inbound.deliveries();
        for delivery in batch.deliveries() {
            black_box(batch.headers(delivery, &memory));
        }
        inbound.clear();
    };
    (TRAIN, Box::new(run))
}
