//! The data path against captures of real flanneld hosts: what it read and what it sent.
//!
//! Vectors and their origin: `tests/vectors/README.md`.

#![allow(clippy::disallowed_methods, reason = "tests read their vectors")]
#![allow(clippy::expect_used, reason = "a test may fail")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile, Via, Vtep};
use tunneld_core::fib::{Fib, Settings, SourceCheck};
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::vxlan::Vni;
use tunneld_wire::{ipv4, udp};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 11);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 12);
const NOW_NS: u64 = 1_000_000_000;

/// Packets of a little-endian pcap file, in order.
fn capture(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    let file = std::fs::read(path).expect("vector");
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while let Some((record, after)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        packets.push(after[..len].to_vec());
        rest = &after[len..];
    }
    packets
}

/// UDP payloads of an Ethernet capture, with their outer sources.
fn payloads(name: &str) -> Vec<(SocketAddr, Vec<u8>)> {
    let read = |frame: Vec<u8>| {
        let outer = ipv4::Header::parse(&frame[14..]).expect("IPv4");
        let datagram = &frame[14 + outer.header_len..];
        let (header, payload) = udp::Header::parse(datagram).expect("UDP");
        ((outer.source, header.source_port).into(), payload.to_vec())
    };
    capture(name).into_iter().map(read).collect()
}

/// What the first flanneld host knew: its own subnet 10.5.26.0/24 and its peer's 10.5.32.0/24.
fn fib() -> Fib {
    let prefix = |text: &str| text.parse().expect("prefix");
    let peer = Parameters {
        encapsulation: Encapsulation::Raw,
        endpoint: SocketAddr::from((THERE, 8285)),
        mtu_bytes: 1_472,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    let settings = Settings {
        source_check: SourceCheck::Strict,
        device_mtu_bytes: 1_472,
        icmp_source: Some(Ipv4Addr::new(10, 5, 26, 0)),
        icmp_source_v6: None,
        vtep: None,
    };
    let change = Change {
        settings: Some(settings),
        put_adjacencies: vec![("peer".into(), peer)],
        put_entries: vec![
            (prefix("10.5.26.0/24"), TargetName::Local),
            (prefix("10.5.32.0/24"), TargetName::Adjacency("peer".into())),
        ],
        ..Change::default()
    };
    Tables::new(1).commit(change).expect("a good change")
}

#[test]
fn what_flanneld_read_from_its_device_leaves_as_it_sent_it() {
    let read = capture("flannel-udp-tun-f1-unreach.pcap");
    let sent: Vec<_> = payloads("flannel-udp-8285.pcap")
        .into_iter()
        .filter(|(from, _)| from.ip() == HERE)
        .collect();
    assert_eq!(sent.len(), 2);
    let mut outbound = Outbound::new(0, Arc::default());
    for packet in [&read[0], &read[2]] {
        outbound.handle(&fib(), VnetHeader::default(), packet, NOW_NS);
    }
    let batch = outbound.batch();
    for (datagram, (from, payload)) in batch.datagrams().zip(&sent) {
        assert_eq!(datagram.payload, payload);
        assert_eq!(datagram.endpoint, (THERE, from.port()).into());
    }
    assert_eq!(batch.datagrams().count(), sent.len());
}

#[test]
fn what_flanneld_received_arrives_as_it_wrote_it_to_its_device() {
    let written = capture("flannel-udp-tun-f1-unreach.pcap");
    let received: Vec<_> = payloads("flannel-udp-8285.pcap")
        .into_iter()
        .filter(|(from, _)| from.ip() == THERE)
        .collect();
    assert_eq!(received.len(), 2);
    let mut inbound = Inbound::new(0, Arc::default());
    for (number, (from, payload)) in received.into_iter().enumerate() {
        let (mut datagram, place) = (payload.clone(), 0..payload.len());
        inbound.handle(&fib(), Via::Plain, from, &mut datagram, place, None, NOW_NS);
        assert_eq!(datagram, written[1 + 2 * number]);
    }
    assert_eq!(inbound.deliveries().len(), 2);
}

#[test]
fn an_unleased_destination_is_answered_as_flanneld_answers_it() {
    let packets = capture("flannel-udp-tun-f1-unreach.pcap");
    let (offender, answer) = (&packets[4], &packets[5]);
    let mut outbound = Outbound::new(0, Arc::default());
    outbound.handle(&fib(), VnetHeader::default(), offender, NOW_NS);
    let replies: Vec<_> = outbound.replies().iter().collect();
    let [(destination, reply)] = replies[..] else { panic!("one reply") };
    let (ours, theirs) = (ipv4::Header::parse(reply), ipv4::Header::parse(answer));
    let (ours, theirs) = (ours.expect("IPv4"), theirs.expect("IPv4"));
    // The kernel puts the source in: flanneld's is a broadcast address to older containers.
    assert_eq!((ours.source, ours.destination), (Ipv4Addr::UNSPECIFIED, theirs.destination));
    assert_eq!(destination, theirs.destination);
    assert_eq!(reply[20..22], answer[20..22], "type and code");
    assert_eq!(reply[28..56], answer[28..], "what both quote of the offender");
}

/// What the first of the two vxlan hosts knew: its own subnet and its peer's, both inner addresses.
fn vxlan_fib() -> Fib {
    let prefix = |text: &str| text.parse().expect("prefix");
    let mac = |text: &str| text.parse::<MacAddress>().ok();
    let peer = Parameters {
        encapsulation: Encapsulation::Vxlan {
            vtep_mac: mac("7e:72:57:ec:a9:ea").expect("an address"),
        },
        endpoint: (THERE, 4789).into(),
        mtu_bytes: 1_450,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    let vtep = Vtep {
        vni: Vni::new(7).expect("24 bits"),
        gbp: false,
        mac: mac("9e:04:85:b2:23:f7"),
        mac_v6: None,
    };
    let settings = Settings {
        source_check: SourceCheck::Strict,
        device_mtu_bytes: 1_450,
        icmp_source: Some(Ipv4Addr::new(10, 5, 97, 0)),
        icmp_source_v6: None,
        vtep: Some(vtep),
    };
    let change = Change {
        settings: Some(settings),
        put_adjacencies: vec![("peer".into(), peer)],
        put_entries: vec![
            (prefix("10.5.97.0/24"), TargetName::Local),
            (prefix("10.5.83.0/24"), TargetName::Adjacency("peer".into())),
        ],
        ..Change::default()
    };
    Tables::new(1).commit(change).expect("a good change")
}

/// The datagrams that one of the two vxlan hosts sent.
fn vxlan_from(address: Ipv4Addr) -> Vec<(SocketAddr, Vec<u8>)> {
    let all = payloads("flannel-vxlan-vni7-4789.pcap").into_iter();
    let sent: Vec<_> = all.filter(|(from, _)| from.ip() == address).collect();
    assert_eq!(sent.len(), 2);
    sent
}

#[test]
fn what_the_kernels_vxlan_device_sent_leaves_here_the_same() {
    let fib = vxlan_fib();
    let mut outbound = Outbound::new(0, Arc::default());
    let sent = vxlan_from(HERE);
    for (_, payload) in &sent {
        outbound.handle(&fib, VnetHeader::default(), &payload[22..], NOW_NS);
    }
    let left: Vec<_> = outbound.batch().datagrams().collect();
    assert_eq!(left.len(), sent.len());
    for (datagram, (_, payload)) in left.iter().zip(&sent) {
        assert_eq!(datagram.payload, payload);
        assert_eq!(datagram.endpoint, (THERE, 4789).into());
    }
}

#[test]
fn what_the_kernels_vxlan_device_sent_arrives_here_untouched() {
    let fib = vxlan_fib();
    for (from, payload) in vxlan_from(THERE) {
        assert_ne!(from.port(), 4789, "source ports are hashed");
        let mut inbound = Inbound::new(0, Arc::default());
        let (mut datagram, place) = (payload.clone(), 0..payload.len());
        inbound.handle(&fib, Via::Plain, from, &mut datagram, place, None, NOW_NS);
        assert_eq!(datagram, payload);
        let deliveries = inbound.deliveries();
        let [delivery] = &deliveries[..] else { panic!("one delivery") };
        assert!(deliveries.packets(delivery).eq(std::iter::once(22..payload.len())));
    }
}
