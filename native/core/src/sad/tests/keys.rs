//! Packets where there are no keys, or none any more.

use tunneld_esp::sa::LIFE_NS;
use tunneld_esp::sequence;

use super::*;
use crate::waiting::Room;

fn waiting(node: &Node) -> Vec<(NonZeroU64, u16, Vec<u8>)> {
    let mut room = Room::default();
    node.waiting.take(&mut room);
    let waiters = room.iter();
    waiters.map(|one| (one.peer.number(), one.vnet.gso_size, one.packet.to_vec())).collect()
}

#[test]
fn packets_without_keys_wait_whole_and_are_no_drops() {
    let mut a = Node::new(1, &[2, 3]);
    assert!(!a.outbound[0].take_left());
    let (vnet, whole) = super_packet(&[5; 4_000], 1_398, false);
    assert!(a.send_by(0, vnet, &whole).is_empty());
    assert!(a.send(&to_b(99)).is_empty());
    assert_eq!((a.outbound[0].take_left(), a.outbound[0].take_left()), (true, false));
    let peer = a.peer(2).number();
    assert_eq!(waiting(&a), [(peer, 1_398, whole), (peer, 0, to_b(99))]);
    assert_eq!(a.dropped(), []);
    assert_eq!(a.outbound[0].counters().packets.read(), 2);
}

#[test]
fn what_has_no_room_to_wait_is_dropped() {
    let mut a = Node::new(1, &[2]);
    (0..130).for_each(|_| _ = a.send(&to_b(100)));
    assert_eq!(a.dropped(), [(DropReason::NoKeys, 2)]);
    assert_eq!(waiting(&a).len(), 128);
    assert!(a.outbound[0].take_left());
    a.send(&to_b(100));
    assert_eq!(waiting(&a).len(), 1, "there is room again");
    let mut alone = Outbound::new(0, Arc::default());
    alone.handle(&a.fib, VnetHeader::default(), &to_b(100), NOW_NS);
    assert_eq!(drops(alone.counters()), [(DropReason::NoKeys, 1)]);
}

#[test]
fn a_peer_for_which_no_more_may_wait_takes_no_room_from_others() {
    let mut a = Node::new(1, &[2, 3]);
    let to_c = packet([10, 5, 1, 2], [10, 5, 3, 2], 64, 100);
    a.peer(2).is_full_until(NOW_NS + 1);
    (0..200).for_each(|_| _ = a.send(&to_b(100)));
    a.send(&to_c);
    assert_eq!(waiting(&a), [(a.peer(3).number(), 0, to_c)]);
    assert_eq!(a.dropped(), [(DropReason::NoKeys, 200)]);
    a.now_ns += 1;
    a.send(&to_b(100));
    assert_eq!(waiting(&a), [(a.peer(2).number(), 0, to_b(100))]);
}

#[test]
fn what_waited_goes_its_way_once_there_are_keys_and_came_in_once() {
    let (mut a, mut b) = (Node::new(1, &[2]), Node::new(2, &[1]));
    a.send(&to_b(100));
    let [(_, _, packet)] = &waiting(&a)[..] else { panic!("one waits") };
    let _keys = connect(7, (&a, 1), (&b, 2));
    a.outbound[0].again(&a.fib, VnetHeader::default(), packet, NOW_NS);
    let [datagram] = &taken(&mut a.outbound[0])[..] else { panic!("it goes") };
    assert_eq!(b.receive(datagram, None), [to_b(100)]);
    let counters = a.outbound[0].counters();
    assert_eq!((counters.packets.read(), counters.bytes.read()), (1, 100));
    a.outbound[0].again(&a.fib, VnetHeader::default(), &to_b(1_439), NOW_NS);
    assert_eq!(a.dropped(), [(DropReason::TooBig, 1)], "by the same rules");
}

#[test]
fn the_sender_of_what_waited_in_vain_is_told_within_the_rate() {
    let mut a = Node::new(1, &[2]);
    for _ in 0..1_000 {
        a.outbound[0].give_up(&a.fib, &to_b(100), NOW_NS);
    }
    assert_eq!(a.dropped(), [(DropReason::NoKeys, 1_000)]);
    let replies: Vec<_> = a.outbound[0].replies().iter().collect();
    assert_eq!(replies.len() as u64, crate::icmp_limit::BURST);
    let (to, reply) = replies[0];
    assert_eq!(to, IpAddr::from([10, 5, 1, 2]));
    // RFC 792: destination unreachable, with the header of the packet.
    assert_eq!((reply[20], &reply[28..48]), (3, &to_b(100)[..20]));
}

#[test]
fn what_may_not_go_on_at_all_does_not_wait() {
    let mut a = Node::new(1, &[2]);
    a.send(&to_b(1_439));
    a.send(&packet([10, 5, 1, 2], [10, 5, 7, 2], 64, 100));
    assert_eq!(waiting(&a), []);
    assert_eq!(a.dropped(), [(DropReason::NoRoute, 1), (DropReason::TooBig, 1)]);
}

#[test]
fn nothing_is_sealed_after_the_keys_are_taken_away() {
    let (mut a, _, keys) = pair();
    assert_eq!(a.send(&to_b(100)).len(), 1);
    a.peer(2).seal_by_none();
    assert!(a.send(&to_b(100)).is_empty());
    assert_eq!(Arc::strong_count(&keys.sealing), 1, "and nobody keeps them");
    assert_eq!(waiting(&a).len(), 1);
}

#[test]
fn an_sa_ends_in_the_middle_of_a_super_packet_and_the_rest_is_counted() {
    let (mut a, _, _) = pair();
    let (vnet, whole) = numbered(6_000);
    let Node { outbound, fib, .. } = &mut a;
    outbound[0].handle(fib, vnet, &whole, NOW_NS);
    let went = taken(&mut outbound[0]).len();
    assert!(outbound[0].is_unfinished() && went > 0);
    outbound[0].resume(fib, &whole, NOW_NS + LIFE_NS);
    assert!(!outbound[0].is_unfinished());
    assert!(taken(&mut outbound[0]).is_empty());
    assert_eq!(a.dropped(), [(DropReason::SaEnded, 6_000 - went as u64)]);
    a.now_ns = NOW_NS + LIFE_NS;
    a.send(&to_b(100));
    assert_eq!(a.dropped(), [(DropReason::SaEnded, 6_001 - went as u64)]);
}

#[test]
fn an_sa_is_exhausted_in_the_middle_of_a_super_packet_and_the_rest_is_counted() {
    let (mut a, _, keys) = pair();
    let (vnet, whole) = numbered(6_000);
    keys.sealing.lane(0).unwrap().reserve(sequence::LAST - 6_100, NOW_NS).unwrap();
    assert!(keys.sealing.wants_rekey());
    let went = a.send_by(0, vnet, &whole).len();
    assert!((1..6_000).contains(&went));
    assert_eq!(a.dropped(), [(DropReason::SaExhausted, 6_000 - went as u64)]);
}

#[test]
fn a_set_opens_until_its_time_is_over() {
    let (mut a, mut b, _) = pair();
    let sent = [a.send(&to_b(100)), a.send(&to_b(100))].concat();
    b.now_ns = NOW_NS + LIFE_NS - 1;
    assert_eq!(b.receive(&sent[0], None).len(), 1);
    b.now_ns += 1;
    assert!(b.receive(&sent[1], None).is_empty());
    assert_eq!(b.refused(), [(DropReason::EspSaEnded, 1)]);
}

#[test]
fn a_set_that_is_removed_opens_nothing_from_the_next_batch_on() {
    let (mut a, mut b, keys) = pair();
    let sent: Vec<_> = (0..3).map(|_| a.send(&to_b(100)).remove(0)).collect();
    assert_eq!(b.receive(&sent[0], None).len(), 1);
    b.sad.remove(keys.opening.id());
    assert!(b.receive(&sent[1], None).is_empty());
    assert!(b.receive(&sent[2], None).is_empty());
    assert_eq!(b.refused(), [(DropReason::EspUnknownSpi, 2)]);
    assert_eq!(Arc::strong_count(&keys.opening), 1, "and nobody keeps it");
}

#[test]
fn a_peer_keeps_its_keys_whatever_fib_comes_and_no_other_gets_its_number() {
    let (mut a, b, keys) = pair();
    let number = a.peer(2).number();
    a.fib = a.tables.commit(change(1, SourceCheck::Loose, &[2, 3], &[])).unwrap();
    assert_eq!(a.peer(2).number(), number);
    assert_eq!(a.send(&to_b(100)).len(), 1);
    drop((b, keys));
    let subnets = subnets(2);
    let names = subnets.map(|subnet| subnet.to_string()).to_vec();
    let drop_entries = subnets.to_vec();
    let gone = Change { drop_adjacencies: names, drop_entries, ..Change::default() };
    a.fib = a.tables.commit(gone).unwrap();
    let others = [a.peer(2).number(), a.peer(4).number()];
    assert!(!others.contains(&number));
    a.fib = a.tables.commit(change(1, SourceCheck::Loose, &[2], &[])).unwrap();
    assert!(a.send(&to_b(100)).is_empty(), "who comes back makes new keys");
}

#[test]
fn nothing_of_a_key_is_printed() {
    let (a, _, keys) = pair();
    let shown = format!("{:?} {:?} {:?} {:?}", a.sad, a.peer(2), keys.sealing, keys.opening);
    assert!(!shown.contains("[2, 2") && !shown.contains("5a"), "{shown}");
}
