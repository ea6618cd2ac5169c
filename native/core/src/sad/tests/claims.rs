//! Who may speak for which subnet, by ESP and plain.

use super::*;

/// A packet to a container of host 2.
fn from(source: [u8; 4]) -> Vec<u8> {
    packet(source, [10, 5, 2, 2], 64, 100)
}

/// Sends a packet from host 1 to host 2, where 1 said that it holds `claimed`, and 2 knows host 3
/// by its key, and host 4 plain; returns why it was dropped, if it was.
fn judged(check: SourceCheck, claimed: &str, source: [u8; 4]) -> Option<DropReason> {
    let mut a = Node::new(1, &[2]);
    let mut b = Node::of(change(2, check, &[1, 3], &[4]), 1);
    let ipv4 = Some(claimed.parse().unwrap());
    let keys = keys_by(7, (&a, 1), (&b, 2), Claim { ipv4, ipv6: None });
    a.peer(2).seal_by(&keys.sealing, endpoint(2));
    let [datagram] = &a.send(&from(source))[..] else { panic!("one datagram") };
    let delivered = b.receive(datagram, None).len();
    match b.refused()[..] {
        [] => assert_eq!(delivered, 1),
        [(_, 1)] => assert_eq!(delivered, 0),
        ref other => panic!("{other:?}"),
    }
    b.refused().first().map(|(reason, _)| *reason)
}

#[test]
fn a_peer_speaks_for_what_it_claims_and_holds_whatever_is_loosened() {
    let own = "10.5.1.0/24";
    for check in [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off] {
        for (claimed, source, expected) in [
            (own, [10, 5, 1, 2], None),
            (own, [10, 5, 3, 2], Some(DropReason::EspClaim)),
            (own, [10, 5, 9, 2], Some(DropReason::EspClaim)),
            (own, [192, 168, 0, 1], Some(DropReason::EspClaim)),
            ("10.5.3.0/24", [10, 5, 1, 2], Some(DropReason::EspClaim)),
            ("10.5.3.0/24", [10, 5, 3, 2], Some(DropReason::SourceOfOtherPeer)),
            ("10.5.4.0/24", [10, 5, 4, 2], Some(DropReason::SourceOfOtherPeer)),
            ("10.5.2.0/24", [10, 5, 2, 2], Some(DropReason::SourceIsLocal)),
            ("10.5.9.0/24", [10, 5, 9, 2], Some(DropReason::SourceNotLeased)),
        ] {
            let found = judged(check, claimed, source);
            assert_eq!(found, expected, "{claimed} {source:?} {check:?}");
        }
    }
}

#[test]
fn who_claims_no_ipv6_sends_none() {
    let mut a = Node::new(1, &[2]);
    let mut b = Node::new(2, &[1]);
    let keys = keys_by(7, (&a, 1), (&b, 2), Claim { ipv6: None, ..claim(1) });
    a.peer(2).seal_by(&keys.sealing, endpoint(2));
    let [datagram] = &a.send(&over_ipv6(&to_b(100)))[..] else { panic!("one datagram") };
    assert!(b.receive(datagram, None).is_empty());
    assert_eq!(b.refused(), [(DropReason::EspClaim, 1)]);
}

#[test]
fn nothing_is_sealed_for_a_subnet_that_its_peer_does_not_claim() {
    let (mut a, b) = (Node::new(1, &[2]), Node::new(2, &[1]));
    let sealing = |claimed: &str| {
        let claim = Claim { ipv4: Some(claimed.parse().unwrap()), ipv6: None };
        let base = SpiBase::of_random(8);
        Arc::new(SealingSet::new(base, claim, direction(7, 1, NOW_NS)))
    };
    // Not a part of it, nor more than it.
    for claimed in ["10.5.3.0/24", "10.5.2.0/25", "10.5.0.0/16"] {
        a.peer(2).seal_by(&sealing(claimed), endpoint(2));
        assert!(a.send(&to_b(100)).is_empty());
    }
    a.peer(2).seal_by(&sealing("10.5.2.0/24"), endpoint(2));
    assert!(a.send(&over_ipv6(&to_b(100))).is_empty());
    assert_eq!(a.dropped(), [(DropReason::Claim, 4)]);
    assert_eq!(a.send(&to_b(100)).len(), 1);
    drop(b);
}

const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const PLAIN: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 4);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 99);

#[test]
fn nothing_plain_speaks_for_a_peer_with_keys_whatever_the_source_check() {
    for check in [SourceCheck::Strict, SourceCheck::Loose, SourceCheck::Off] {
        let mut b = Node::of(change(2, check, &[1, 3], &[4]), 1);
        for (place, outer) in [OWN, PLAIN, STRANGER].into_iter().enumerate() {
            // A container of the peer, and the peer's host itself.
            for source in [[10, 5, 1, 2], OWN.octets()] {
                // An honest packet before it changes nothing.
                b.inbound.clear();
                let honest = from([10, 5, 4, 2]);
                b.go_on(Via::Plain, (PLAIN, 8285).into(), &honest, None);
                let forged = from(source);
                let delivered = b.go_on(Via::Plain, (outer, 8285).into(), &forged, None).len();
                assert_eq!(delivered, 1, "the honest one");
            }
            let refused = 2 * (place as u64 + 1);
            assert_eq!(b.refused(), [(DropReason::PlainRefused, refused)], "{check:?}");
        }
    }
}

#[test]
fn plain_peers_are_judged_as_ever_beside_peers_with_keys() {
    use SourceCheck::{Loose, Off, Strict};
    for (check, outer, source, expected) in [
        (Strict, PLAIN, [10, 5, 4, 2], None),
        (Strict, PLAIN, PLAIN.octets(), None),
        (Strict, PLAIN, [10, 5, 9, 2], Some(DropReason::SourceNotLeased)),
        (Strict, STRANGER, [10, 5, 4, 2], Some(DropReason::UnknownPeer)),
        (Strict, OWN, [10, 5, 4, 2], Some(DropReason::SourceOfOtherPeer)),
        (Loose, PLAIN, [10, 5, 9, 2], None),
        (Loose, PLAIN, [10, 5, 2, 7], Some(DropReason::SourceIsLocal)),
        // What is loosened holds for peers that speak plain.
        (Loose, OWN, [10, 5, 9, 2], Some(DropReason::PlainRefused)),
        (Off, STRANGER, [10, 5, 9, 2], None),
        (Off, STRANGER, [10, 5, 2, 7], None),
    ] {
        let mut b = Node::of(change(2, check, &[1, 3], &[4]), 1);
        let delivered = b.receive_plain(outer, &from(source));
        let found = b.refused().first().map(|(reason, _)| *reason);
        assert_eq!(found, expected, "{check:?} {outer} {source:?}");
        assert_eq!(delivered, usize::from(expected.is_none()));
    }
}

#[test]
fn an_address_that_a_plain_peer_shares_with_one_that_has_keys_is_the_plain_ones_too() {
    for (check, also) in [(SourceCheck::Strict, OWN.octets()), (SourceCheck::Loose, [10, 5, 9, 2])]
    {
        let mut shared = change(2, check, &[1], &[4]);
        for (_, parameters) in &mut shared.put_adjacencies {
            parameters.endpoint = endpoint(1);
        }
        let mut b = Node::of(shared, 1);
        assert_eq!(b.receive_plain(OWN, &from([10, 5, 4, 2])), 1);
        assert_eq!(b.receive_plain(OWN, &from(also)), 1, "{check:?}");
        assert_eq!(b.receive_plain(OWN, &from([10, 5, 1, 2])), 0);
        assert_eq!(b.refused(), [(DropReason::PlainRefused, 1)]);
    }
}

/// What host 2 takes of host 1, whose packets leave it in `way`, and of host 4, which is plain.
fn meanwhile(way: Encapsulation, meanwhile: Meanwhile) -> Node {
    let mut change = change(2, SourceCheck::Strict, &[1, 3], &[4]);
    for (name, parameters) in &mut change.put_adjacencies {
        if name == "10.5.1.0/24" {
            parameters.encapsulation = way;
            parameters.meanwhile = meanwhile;
        }
    }
    Node::of(change, 1)
}

#[test]
fn a_peer_that_goes_over_to_keys_is_heard_both_ways_before_and_after() {
    let subnet = "10.5.1.0/24".parse().unwrap();
    let esp = Encapsulation::Esp { key: key(1), subnet };
    let sealed = Meanwhile::Sealed { key: key(1) };
    for (way, meanwhile_, takes_plain, takes_sealed) in [
        (Encapsulation::Raw, Meanwhile::Nothing, true, false),
        (Encapsulation::Raw, sealed, true, true),
        (esp, Meanwhile::Plain, true, true),
        (esp, Meanwhile::Nothing, false, true),
    ] {
        let (mut a, mut b) = (Node::new(1, &[2]), meanwhile(way, meanwhile_));
        let packet = from([10, 5, 1, 2]);
        assert_eq!(b.receive_plain(OWN, &packet), usize::from(takes_plain), "{meanwhile_:?}");
        let _keys = connect(7, (&a, 1), (&b, 2));
        let [datagram] = &a.send(&packet)[..] else { panic!("one datagram") };
        assert_eq!(b.receive(datagram, None).len(), usize::from(takes_sealed), "{meanwhile_:?}");
        // Nobody else speaks for it, by whatever way.
        assert_eq!(b.receive_plain(STRANGER, &packet), 0);
        assert_eq!(b.receive_plain(PLAIN, &packet), 0);
        let mut c = Node::new(3, &[2]);
        let keys = keys_by(9, (&c, 3), (&b, 2), claim(1));
        c.peer(2).seal_by(&keys.sealing, endpoint(2));
        let [datagram] = &c.send(&packet)[..] else { panic!("one datagram") };
        assert!(b.receive(datagram, None).is_empty());
    }
}

#[test]
fn who_has_no_keys_takes_nothing_sealed_meanwhile() {
    let mut change = change(2, SourceCheck::Strict, &[], &[4]);
    let (_, parameters) = &mut change.put_adjacencies[0];
    parameters.meanwhile = Meanwhile::Sealed { key: key(4) };
    let refused = Tables::new(1).commit(change).unwrap_err();
    assert!(matches!(refused, crate::transaction::Error::NoEncryption { .. }), "{refused}");
}
