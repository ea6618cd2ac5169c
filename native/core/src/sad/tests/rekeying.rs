//! Keys that change while packets are on their way.

use std::collections::BTreeSet;

use super::*;

/// Xorshift; the seed is not 0.
struct Chosen(u64);

impl Chosen {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % count
    }
}

/// Takes what is in the batch, each datagram with where it goes.
fn sent(outbound: &mut Outbound) -> Vec<(SocketAddr, Vec<u8>)> {
    let queue = &outbound.batch().queues()[2];
    let datagrams = queue.datagrams_from(0, 0);
    let sent = datagrams.map(|datagram| (datagram.endpoint, datagram.payload.to_vec())).collect();
    outbound.clear();
    sent
}

#[test]
fn no_number_is_used_twice_and_every_packet_arrives_once_however_keys_change() {
    for seed in 1..=12 {
        let mut chosen = Chosen(seed * 0x9e37_79b9);
        let (mut a, mut b) = (Node::new(1, &[2]), Node::new(2, &[1]));
        let sets: Vec<_> =
            (0..4).map(|place| keys_by(10 + 2 * place, (&a, 1), (&b, 2), claim(1))).collect();
        // A set goes by an endpoint of its own, so that its datagrams show where they went.
        let put = |a: &Node, place: usize| {
            a.peer(2).seal_by(&sets[place].sealing, endpoint(20 + place as u8));
        };
        let goes = |datagram: &[u8]| {
            let base = head(datagram).0;
            let place = sets.iter().position(|set| set.opening.id().number() == base);
            endpoint(20 + place.unwrap() as u8)
        };
        put(&a, 0);
        let (mut used, mut order) = (BTreeSet::new(), Vec::new());
        for _ in 0..3 {
            let (vnet, whole) = numbered(6_000);
            let outbound = &mut a.outbound[0];
            outbound.handle(&a.fib, vnet, &whole, NOW_NS);
            let mut all = sent(outbound);
            while a.outbound[0].is_unfinished() {
                // Often back to a set that was used before, as when a newer one ends early.
                put(&a, chosen.below(4));
                a.outbound[0].resume(&a.fib, &whole, NOW_NS);
                all.extend(sent(&mut a.outbound[0]));
            }
            for (endpoint, datagram) in all {
                assert!(used.insert(head(&datagram)), "{:x?} is used twice", head(&datagram));
                assert_eq!(endpoint, goes(&datagram));
                order.extend(numbers(&b.receive(&datagram, None)));
            }
            put(&a, chosen.below(4));
        }
        let expected: Vec<u32> = (0..3).flat_map(|_| 0..6_000).collect();
        assert_eq!(order, expected, "seed {seed}");
        assert_eq!((a.dropped(), b.refused()), (vec![], vec![]));
    }
}

#[test]
fn keys_that_are_taken_away_in_the_middle_of_a_super_packet_leave_its_rest_counted() {
    let (mut a, mut b, _) = pair();
    let (vnet, whole) = numbered(6_000);
    a.outbound[0].handle(&a.fib, vnet, &whole, NOW_NS);
    let went = taken(&mut a.outbound[0]);
    a.peer(2).seal_by_none();
    a.outbound[0].resume(&a.fib, &whole, NOW_NS);
    assert!(taken(&mut a.outbound[0]).is_empty() && !a.outbound[0].is_unfinished());
    assert_eq!(a.dropped(), [(DropReason::NoKeys, 6_000 - went.len() as u64)]);
    let arrived: Vec<_> = went.iter().flat_map(|one| b.receive(one, None)).collect();
    assert!(numbers(&arrived).into_iter().eq(0..went.len() as u32));
}

#[test]
fn old_and_new_sets_open_side_by_side() {
    let (mut a, mut b, _) = pair();
    let mut late = vec![a.send(&to_b(101)).remove(0)];
    let newer = connect(9, (&a, 1), (&b, 2));
    late.push(a.send(&to_b(102)).remove(0));
    let spis: BTreeSet<_> = late.iter().map(|datagram| head(datagram).0).collect();
    assert_eq!(spis.len(), 2);
    b.inbound.clear();
    late.iter().rev().for_each(|one| _ = b.go_on(Via::Esp, endpoint(1), one, None));
    assert_eq!(b.inbound.deliveries().len(), 2);
    assert_eq!(newer.opening.take_heard(), Heard::Data);
    assert_eq!(b.refused(), []);
}
