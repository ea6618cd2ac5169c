//! Two hosts as values, joined by a link that a test can look into, cut and bend.

#![allow(clippy::expect_used, reason = "a test may fail")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::batch::Queue;
use tunneld_core::counters::{AdjacencyReading, WorkerCounters};
use tunneld_core::drop_reason::DropReason;
use tunneld_core::encapsulation::{Encapsulation, Meanwhile, Via};
use tunneld_core::fib::{Fib, Settings, SourceCheck};
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::{ip, ipv4};

const NOW_NS: u64 = 1_000_000_000;

/// A host: its number is the last byte of its underlay address and the third of its subnet.
struct Host {
    number: u8,
    tables: Tables,
    fib: Fib,
    outbound: Outbound,
    inbound: Inbound,
    counters: [Arc<WorkerCounters>; 2],
}

impl Host {
    fn new(number: u8, peers: &[u8]) -> Self {
        let mut change = Change {
            settings: Some(Settings {
                source_check: SourceCheck::Strict,
                device_mtu_bytes: 1_472,
                icmp_source: Some(Ipv4Addr::new(10, 5, number, 0)),
                icmp_source_v6: None,
                vtep: None,
            }),
            put_entries: vec![(subnet(number), TargetName::Local)],
            ..Change::default()
        };
        for peer in peers {
            let parameters = Parameters {
                encapsulation: Encapsulation::Raw,
                endpoint: underlay(*peer),
                mtu_bytes: 1_472,
                outer_df: OuterDf::Kernel,
                meanwhile: Meanwhile::Nothing,
            };
            change.put_adjacencies.push((peer.to_string(), parameters));
            change.put_entries.push((subnet(*peer), TargetName::Adjacency(peer.to_string())));
        }
        let mut tables = Tables::new(1);
        let fib = tables.commit(change).expect("a good change");
        let counters: [Arc<WorkerCounters>; 2] = Default::default();
        let outbound = Outbound::new(0, Arc::clone(&counters[0]));
        let inbound = Inbound::new(0, Arc::clone(&counters[1]));
        Self { number, tables, fib, outbound, inbound, counters }
    }

    /// Reads `packet` from the device; returns the datagrams that leave, with their endpoints.
    fn send(&mut self, packet: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.outbound.handle(&self.fib, VnetHeader::default(), packet, NOW_NS);
        let batch = self.outbound.batch();
        let mut datagrams = Vec::new();
        for datagram in batch.datagrams() {
            datagrams.push((datagram.endpoint, datagram.payload.to_vec()));
        }
        for train in batch.queues().iter().flat_map(Queue::trains) {
            self.outbound.sent(&self.fib, train, &(0..train.count), NOW_NS);
        }
        self.outbound.clear();
        datagrams
    }

    /// Receives a datagram; returns what is written to the device, and the ICMP that leaves.
    fn receive(&mut self, from: u8, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut slot = datagram.to_vec();
        let place = 0..slot.len();
        self.inbound.handle(&self.fib, Via::Plain, underlay(from), &mut slot, place, None, NOW_NS);
        let deliveries = self.inbound.deliveries();
        let mut written = Vec::new();
        for delivery in deliveries.iter() {
            for place in deliveries.packets(delivery) {
                self.inbound.delivered(&self.fib, delivery, 1, place.len(), NOW_NS);
                written.push(slot[place].to_vec());
            }
        }
        let icmp = self.inbound.replies().iter().map(|(_, packet)| packet.to_vec()).collect();
        self.inbound.clear();
        (written, icmp)
    }

    fn traffic_with(&self, peer: u8) -> AdjacencyReading {
        let name = peer.to_string();
        let mut adjacencies = self.tables.adjacencies();
        adjacencies.find(|(other, _, _)| *other == name).expect("a peer").2.read()
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let count = |reason: DropReason| {
            self.counters.iter().map(|counters| counters.drops(reason).read()).sum::<u64>()
        };
        let all = DropReason::ALL.iter().map(|reason| (reason.label(), count(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

fn underlay(number: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 168, 0, number), 8285).into()
}

fn subnet(number: u8) -> tunneld_core::prefix::Prefix {
    format!("10.5.{number}.0/24").parse().expect("prefix")
}

fn packet(from: u8, to: u8, hop_limit: u8, len: usize) -> Vec<u8> {
    let header = ipv4::Header {
        header_len: ipv4::Header::LEN,
        type_of_service: 0,
        total_len: len as u16,
        identification: 7,
        fragment: 0x4000,
        hop_limit,
        protocol: ip::PROTOCOL_UDP,
        checksum: 0,
        source: Ipv4Addr::new(10, 5, from, 2),
        destination: Ipv4Addr::new(10, 5, to, 2),
    };
    let mut packet = header.emit().to_vec();
    packet.resize(len, 0x5a);
    packet
}

#[test]
fn a_packet_crosses_and_loses_two_hops() {
    let (mut a, mut b) = (Host::new(1, &[2]), Host::new(2, &[1]));
    for len in [20, 100, 1_472] {
        let datagrams = a.send(&packet(1, 2, 63, len));
        let [(endpoint, datagram)] = &datagrams[..] else { panic!("one datagram") };
        assert_eq!(*endpoint, underlay(2));
        let (written, icmp) = b.receive(1, datagram);
        assert_eq!(written, [packet(1, 2, 61, len)]);
        assert!(icmp.is_empty());
    }
    let (sent, received) = (a.traffic_with(2), b.traffic_with(1));
    assert_eq!((sent.tx_packets, sent.tx_bytes), (3, 1_592));
    assert_eq!((received.rx_packets, received.rx_bytes), (3, 1_592));
    assert!(a.drops().is_empty());
    assert!(b.drops().is_empty());
}

#[test]
fn a_hop_limit_that_ends_at_the_far_side_is_told_to_the_sender() {
    let (mut a, mut b) = (Host::new(1, &[2]), Host::new(2, &[1]));
    let datagrams = a.send(&packet(1, 2, 2, 60));
    let (written, icmp) = b.receive(1, &datagrams[0].1);
    assert!(written.is_empty());
    assert_eq!(b.drops(), [("hop_limit_exceeded", 1)]);
    // The kernel puts in source and checksum, and the answer travels the overlay like any packet:
    // into b's device, out at a's.
    let header = ipv4::Header::parse(&icmp[0]).expect("one packet");
    let answered = ipv4::Header { source: Ipv4Addr::new(10, 5, 2, 0), ..header };
    let answer = [&answered.emit()[..], &icmp[0][ipv4::Header::LEN..]].concat();
    let datagrams = b.send(&answer);
    let (written, _) = a.receive(2, &datagrams[0].1);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0][20..22], [11, 0]);
}

#[test]
fn a_host_that_was_dropped_is_neither_sent_to_nor_listened_to() {
    let (mut a, mut b) = (Host::new(1, &[2]), Host::new(2, &[1]));
    let gone = Change {
        drop_adjacencies: vec!["1".into()],
        drop_entries: vec![subnet(1)],
        ..Change::default()
    };
    b.fib = b.tables.commit(gone).expect("a good change");
    let datagrams = a.send(&packet(1, 2, 63, 60));
    assert!(b.receive(1, &datagrams[0].1).0.is_empty());
    assert!(b.send(&packet(2, 1, 63, 60)).is_empty());
    assert_eq!(b.drops(), [("no_route", 1), ("unknown_peer", 1)]);
}

#[test]
fn a_third_host_cannot_speak_for_another() {
    let (mut a, mut b, mut c) =
        (Host::new(1, &[2, 3]), Host::new(2, &[1, 3]), Host::new(3, &[1, 2]));
    let forged = c.send(&packet(1, 2, 63, 60));
    assert!(b.receive(c.number, &forged[0].1).0.is_empty());
    assert_eq!(b.drops(), [("source_of_other_peer", 1)]);
    let honest = a.send(&packet(1, 2, 63, 60));
    assert_eq!(b.receive(a.number, &honest[0].1).0.len(), 1);
}

#[test]
fn a_bent_header_is_always_noticed() {
    let (mut a, mut b) = (Host::new(1, &[2]), Host::new(2, &[1]));
    let datagrams = a.send(&packet(1, 2, 63, 60));
    for bit in 0..160 {
        let mut bent = datagrams[0].1.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(b.receive(1, &bent).0.is_empty(), "bit {bit}");
    }
    assert_eq!(b.drops().iter().map(|(_, count)| count).sum::<u64>(), 160);
}
