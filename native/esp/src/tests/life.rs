//! The life of an SA: its numbers, its time, its lanes.

use super::*;
use crate::sa::{Direction, LIFE_NS};
use crate::seal::Refusal;
use crate::sequence::{LAST, WANTS_REKEY};

fn outbound() -> OutboundSa {
    ends(Provider::AwsLc, Cipher::Aes128Gcm).0
}

fn direction(lanes: u8) -> Direction {
    Direction {
        secret: Secret::new(&[9; 32]),
        provider: Provider::AwsLc,
        cipher: Cipher::Aes256Gcm,
        base: base(),
        lanes,
        agreed_ns: NOW_NS,
    }
}

/// The lower half of a packet's number.
fn low(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[4..8].try_into().unwrap())
}

/// Takes `count` numbers, without sealing anything.
fn skip(sa: &OutboundSa, count: u64) {
    sa.reserve(count, NOW_NS).map(drop).unwrap();
}

#[test]
fn numbers_count_from_one_and_no_number_is_sealed_twice() {
    let sa = outbound();
    let numbers: Vec<u32> = (0..5).map(|_| low(&sealed(&sa, Content::Ipv4, &ipv4(20)))).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(sa.used(), 5);
}

#[test]
fn what_is_reserved_and_not_used_is_skipped() {
    let sa = outbound();
    let mut numbers = sa.reserve(3, NOW_NS).unwrap();
    let mut first = slot(&ipv4(20));
    sa.seal(&mut numbers, Content::Ipv4, &mut first).unwrap();
    assert_eq!(low(&first), 1);
    assert_eq!(low(&sealed(&sa, Content::Ipv4, &ipv4(20))), 4);
}

#[test]
fn no_number_is_given_twice_where_several_threads_use_one_sa() {
    let sa = &outbound();
    let reserve = |count: u64| {
        let numbers = || {
            let mut reserved = sa.reserve(count, NOW_NS).unwrap();
            let mut slot = slot(&[]);
            sa.seal(&mut reserved, Content::Dummy, &mut slot).unwrap();
            low(&slot)
        };
        (0..2_000).map(|_| numbers()).collect::<Vec<_>>()
    };
    let mut firsts = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|count| scope.spawn(move || reserve(count))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(sa.used(), 2_000 * (1 + 2 + 3 + 4));
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 8_000);
}

#[test]
fn no_more_is_sealed_than_was_reserved() {
    let sa = outbound();
    let mut numbers = sa.reserve(1, NOW_NS).unwrap();
    assert!(sa.seal(&mut numbers, Content::Dummy, &mut slot(&[])).is_ok());
    let mut slot = slot(&ipv4(20));
    assert_eq!(sa.seal(&mut numbers, Content::Ipv4, &mut slot), Err(Refusal::Exhausted));
    assert_eq!(slot[16..36], ipv4(20), "and nothing is written");
}

#[test]
fn numbers_of_one_sa_seal_nothing_under_another() {
    let direction = direction(2);
    let [first, second] = [0, 1].map(|lane| direction.outbound(lane).unwrap().unwrap());
    let mut numbers = first.reserve(1, NOW_NS).unwrap();
    let mut slot = slot(&ipv4(20));
    assert_eq!(second.seal(&mut numbers, Content::Ipv4, &mut slot), Err(Refusal::Exhausted));
    assert!(first.seal(&mut numbers, Content::Ipv4, &mut slot).is_ok(), "and none is lost");
}

#[test]
fn a_new_handshake_is_wanted_from_2_to_the_35_on() {
    let sa = outbound();
    skip(&sa, WANTS_REKEY - 1);
    assert!(!sa.wants_rekey());
    skip(&sa, 1);
    assert!(sa.wants_rekey());
    assert_eq!((WANTS_REKEY, sa.used()), (1 << 35, 1 << 35));
}

#[test]
fn after_2_to_the_36_packets_nothing_more_is_sealed() {
    let sa = outbound();
    skip(&sa, LAST - 2);
    assert_eq!(sa.reserve(3, NOW_NS).map(drop), Err(Refusal::Exhausted), "all or none");
    for _ in 0..2 {
        sealed(&sa, Content::Ipv4, &ipv4(20));
    }
    assert_eq!(sa.used(), 1 << 36);
    for count in [1, 2, u64::MAX] {
        assert_eq!(sa.reserve(count, NOW_NS).map(drop), Err(Refusal::Exhausted));
    }
    assert_eq!(sa.used(), 1 << 36);
}

#[test]
fn the_last_packet_opens_at_the_other_end() {
    let (outbound, mut inbound) = ends(Provider::Ring, Cipher::ChaCha20Poly1305);
    // In steps that the receiver can follow: of less than 2^32 numbers without the window's.
    for _ in 0..32 {
        skip(&outbound, (1 << 31) - 1);
        let packet = sealed(&outbound, Content::Ipv4, &ipv4(20));
        assert_eq!(opened(&mut inbound, &packet), Ok(ipv4(20)));
    }
    assert_eq!(outbound.used(), LAST);
}

#[test]
fn after_180_s_an_sa_neither_seals_nor_opens() {
    let (outbound, mut inbound) = ends(Provider::AwsLc, Cipher::Aes256Gcm);
    let packet = sealed(&outbound, Content::Ipv4, &ipv4(20));
    let end_ns = NOW_NS + 180_000_000_000;
    assert_eq!(LIFE_NS, 180_000_000_000);
    assert!(outbound.reserve(1, end_ns - 1).is_ok() && inbound.is_alive(end_ns - 1));
    assert_eq!(outbound.reserve(1, end_ns).map(drop), Err(Refusal::Ended));
    assert_eq!(inbound.open(&mut packet.clone(), end_ns), Err(Fault::Ended));
    assert!(!outbound.is_alive(end_ns) && !inbound.is_alive(end_ns));
    assert!(inbound.open(&mut packet.clone(), end_ns - 1).is_ok());
}

#[test]
fn a_direction_has_as_many_lanes_as_its_sender_and_each_its_own_key() {
    let three = direction(3);
    let mut texts = Vec::new();
    for lane in 0..3 {
        let outbound = three.outbound(lane).unwrap().unwrap();
        let mut inbound = three.inbound(outbound.spi()).unwrap().unwrap();
        assert_eq!((inbound.spi(), inbound.spi().lane()), (spi(lane), lane));
        let packet = sealed(&outbound, Content::Ipv4, &ipv4(40));
        assert_eq!(opened(&mut inbound, &packet), Ok(ipv4(40)));
        texts.push(packet[16..].to_vec());
    }
    texts.dedup();
    assert_eq!(texts.len(), 3, "the same number and packet, sealed under three keys");
    for lane in 3..=255 {
        assert!(three.outbound(lane).unwrap().is_none(), "{lane}");
    }
    assert!(three.inbound(spi(3)).unwrap().is_none());
    let elsewhere = SpiBase::of_random(1).lane(0).unwrap();
    assert!(three.inbound(elsewhere).unwrap().is_none());
    assert!(direction(64).outbound(63).unwrap().is_some());
}

#[test]
fn no_key_is_printed_with_its_sa() {
    let (outbound, inbound) = ends(Provider::Ring, Cipher::Aes128Gcm);
    let said = format!("{outbound:?} {inbound:?}");
    assert!(said.contains("Key(aes-128-gcm by ring), 0 used"), "{said}");
    let (_, salt) = (key(Provider::Ring, Cipher::Aes128Gcm), [0x42u8; 4]);
    assert!(!said.contains(&format!("{salt:?}")));
}

#[test]
fn every_fault_and_refusal_has_a_name_of_its_own() {
    let faults = Fault::ALL.iter().map(|fault| fault.label());
    let mut labels: Vec<_> = faults.chain(Refusal::ALL.iter().map(|why| why.label())).collect();
    labels.sort_unstable();
    let count = labels.len();
    labels.dedup();
    assert_eq!(labels.len(), count);
}
