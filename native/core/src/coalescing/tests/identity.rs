//! Random flows, joined and cut again: what comes out is what went in.

use std::collections::BTreeMap;

use super::*;
use crate::testing::over_ipv6;

struct Chosen(u64);

impl Chosen {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}

/// The next packet of a random flow: mostly one that may be joined, sometimes not.
fn random_packet(chosen: &mut Chosen, flow: u8, sequence: &mut u32, id: &mut u16) -> Vec<u8> {
    let protocol = if flow % 2 == 0 { TCP } else { UDP };
    let options: &[u8] = if flow % 3 == 0 { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
    let usual = 1 + usize::from(flow) * 37;
    let payload_len = [usual, usual, usual, usual, usual / 2, usual * 2, 0][chosen.below(7)];
    let payload: Vec<u8> = (0..payload_len).map(|_| chosen.below(256) as u8).collect();
    let mut packet = transport_packet(protocol, options, &payload);
    packet[21] = flow;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    *id = id.wrapping_add(1);
    if protocol == TCP {
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        *sequence = sequence.wrapping_add(payload_len as u32);
    }
    let place = [1, 5, 6, 8, 24, 28, 33, 33, 33, 34, 40][chosen.below(11)];
    if chosen.below(6) == 0 && place < packet.len() {
        packet[place] ^= [1, 2, 8, 0x10, 0x40][chosen.below(5)];
        packet[6] &= 0x60;
    }
    if protocol == TCP || packet[24..26] == ((packet.len() - 20) as u16).to_be_bytes() {
        fix_checksums(&mut packet);
    }
    if chosen.below(12) == 0 {
        let place = 20 + chosen.below(packet.len() - 20);
        packet[place] ^= 1 << chosen.below(8);
    }
    packet
}

/// Clears what means nothing in a packet that may not be fragmented.
fn without_atomic_identification(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

#[test]
fn coalescing_then_segmentation_gives_back_the_same_packets_in_each_flows_order() {
    joins_and_gives_back(77, <[u8]>::to_vec);
}

#[test]
fn the_same_holds_over_ipv6() {
    joins_and_gives_back(78, |packet| {
        // The wrong checksum of a bad packet must not be mended on the way.
        let mut right = packet.to_vec();
        fix_checksums(&mut right);
        let mut made = over_ipv6(packet);
        if right != packet {
            let last = made.len() - 1;
            made[last] ^= 0x40;
        }
        made
    });
}

fn joins_and_gives_back(seed: u64, made: impl Fn(&[u8]) -> Vec<u8>) {
    let rounds = if cfg!(debug_assertions) { 400 } else { 20_000 };
    let mut chosen = Chosen(seed);
    let mut joined = 0;
    // Both ports, and the addresses in front of them.
    let ports = |packet: &[u8]| if packet[0] >> 4 == 6 { 40 } else { 20 };
    let key = |packet: &[u8]| packet[ports(packet)] ^ packet[ports(packet) + 1];
    for round in 0..rounds {
        let mut state = [(0xffff_f000u32, 0xfff0u16); 8];
        let mut bench = Bench::new(BOTH);
        let mut sent: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        let mut flow = 0;
        for _ in 0..1 + chosen.below(150) {
            if chosen.below(4) == 0 {
                flow = chosen.below(8) as u8;
            }
            let (sequence, id) = &mut state[usize::from(flow)];
            let packet = made(&random_packet(&mut chosen, flow, sequence, id));
            bench.push(&packet);
            // A bad bit in the source port may have made another flow of it.
            sent.entry(key(&packet)).or_default().push(without_atomic_identification(packet));
        }
        let mut got: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
        for packet in bench.segmented() {
            got.entry(key(&packet)).or_default().push(without_atomic_identification(packet));
        }
        joined += bench.counts().iter().filter(|count| **count > 1).count();
        for (flow, packets) in &sent {
            // Distinct flows may share a key here; within one, order is what counts.
            let (mut left, mut right) = (packets.clone(), got[flow].clone());
            let flow_of = |packet: &[u8]| packet[ports(packet) - 8..ports(packet) + 4].to_vec();
            let is_one_flow = packets.iter().all(|packet| flow_of(packet) == flow_of(&packets[0]));
            if !is_one_flow {
                left.sort();
                right.sort();
            }
            assert_eq!(left, right, "round {round}, flow {flow}");
        }
    }
    assert!(joined > rounds, "{joined} super-packets");
}
