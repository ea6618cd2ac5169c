use super::*;
use crate::testing::{UNDERLAY_B, UNDERLAY_C, host_a};
use crate::{fib::Fib, fib::SourceCheck};

struct Bench {
    batch: SendBatch,
    fib: Fib,
}

impl Bench {
    fn new() -> Self {
        Self { batch: SendBatch::default(), fib: host_a(SourceCheck::Strict).1 }
    }

    fn push(&mut self, address: std::net::Ipv4Addr, len: usize) -> bool {
        self.push_as(address, len, Passage::PLAIN)
    }

    fn push_as(&mut self, address: std::net::Ipv4Addr, len: usize, passage: Passage) -> bool {
        let id = self.fib.by_endpoint(address.into()).unwrap();
        let Some(slot) = self.batch.slot(0, len) else { return false };
        slot.fill(len as u8);
        self.batch.push(0, id, (address, 8285).into(), passage, len, len);
        true
    }

    /// The trains, as the lengths of their datagrams.
    fn trains(&self) -> Vec<Vec<usize>> {
        let lens = |train: &Train| -> Vec<usize> {
            let pieces = self.batch.queues()[0].pieces(train);
            pieces.flat_map(|piece| piece.chunks(train.segment_len)).map(<[u8]>::len).collect()
        };
        let trains = self.batch.queues()[0].trains();
        assert!(trains.iter().all(|train| lens(train).len() == train.count));
        trains.iter().map(lens).collect()
    }
}

#[test]
fn equal_sizes_share_a_train_and_a_shorter_one_closes_it() {
    let mut bench = Bench::new();
    for len in [100, 100, 40, 40, 100] {
        bench.push(UNDERLAY_B, len);
    }
    assert_eq!(bench.trains(), [vec![100, 100, 40], vec![40], vec![100]]);
}

#[test]
fn probes_go_each_alone() {
    let mut bench = Bench::new();
    let passage = Passage { df: OuterDf::Probed, purpose: Purpose::Probe };
    for len in [100, 100, 40] {
        bench.push_as(UNDERLAY_B, len, passage);
    }
    assert_eq!(bench.trains(), [vec![100], vec![100], vec![40]]);
}

#[test]
fn peers_do_not_share_a_train_nor_close_one_anothers() {
    let mut bench = Bench::new();
    for address in [UNDERLAY_B, UNDERLAY_C, UNDERLAY_B, UNDERLAY_B, UNDERLAY_C, UNDERLAY_B] {
        bench.push(address, 100);
    }
    assert_eq!(bench.trains(), [vec![100; 4], vec![100; 2]]);
    let queue = &bench.batch.queues()[0];
    let pieces = |train| queue.pieces(train).map(<[u8]>::len).collect::<Vec<_>>();
    let [to_b, to_c] = queue.trains() else { panic!("two trains") };
    assert_eq!((pieces(to_b), pieces(to_c)), (vec![100, 200, 100], vec![100, 100]));
}

#[test]
fn what_is_for_one_peer_keeps_its_order() {
    let mut batch = SendBatch::default();
    let fib = host_a(SourceCheck::Strict).1;
    let peers = [UNDERLAY_B, UNDERLAY_C];
    let mut state = 7u32;
    let mut sent = [const { Vec::new() }; 2];
    for number in 0..60u8 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (peer, len) = ((state >> 24) as usize % 2, [30, 30, 40][(state >> 28) as usize % 3]);
        let id = fib.by_endpoint(peers[peer].into()).unwrap();
        batch.slot(0, len).unwrap().fill(number);
        batch.push(0, id, (peers[peer], 8285).into(), Passage::PLAIN, len, len);
        sent[peer].push(vec![number; len]);
    }
    assert!(batch.queues()[0].trains().len() < 60);
    for (peer, sent) in peers.iter().zip(&sent) {
        let to_peer = |datagram: &Datagram<'_>| datagram.endpoint.ip() == *peer;
        let left = batch.datagrams().filter(to_peer).map(|datagram| datagram.payload);
        assert!(left.eq(sent.iter().map(|bytes| &bytes[..])), "{peer}");
    }
}

#[test]
fn each_queue_has_trains_of_its_own_and_its_order() {
    let mut batch = SendBatch::new(2);
    let fib = host_a(SourceCheck::Strict).1;
    let id = fib.by_endpoint(UNDERLAY_B.into()).unwrap();
    let endpoints: [SocketAddr; 2] =
        [(UNDERLAY_B, 8472).into(), "[2001:db8::2]:8472".parse().unwrap()];
    for number in 0..80u8 {
        let queue = match usize::from(number) % 8 {
            place @ ..4 => batch.queue_for(&endpoints[place / 2], place % 2),
            place => batch.esp_queue_for(id, &endpoints[place % 2], place > 5),
        };
        batch.slot(queue, 100).unwrap().fill(number);
        batch.push(queue, id, endpoints[usize::from(number) % 2], Passage::PLAIN, 78, 100);
    }
    assert_eq!((batch.queues().len(), batch.paths(), batch.first_for_esp()), (8, 2, 4));
    for (number, queue) in (0u8..).zip(batch.queues()) {
        let [train] = queue.trains() else { panic!("one train") };
        assert_eq!((train.count, batch.inner_len(train, &(0..10))), (10, 780));
        let sent: Vec<_> = queue.datagrams_from(0, 0).map(|one| one.payload[99]).collect();
        assert_eq!(sent, (0..80).filter(|place| place % 8 == number).collect::<Vec<_>>());
    }
    batch.clear();
    assert_eq!(batch.datagrams().count(), 0);
}

#[test]
fn bytes_of_all_queues_count_for_the_room_that_is_left() {
    let mut batch = SendBatch::new(4);
    let fib = host_a(SourceCheck::Strict).1;
    let id = fib.by_endpoint(UNDERLAY_B.into()).unwrap();
    let mut count = 0;
    while batch.has_room() {
        batch.slot(count % 4, 60_000).unwrap();
        batch.push(count % 4, id, (UNDERLAY_B, 8472).into(), Passage::PLAIN, 60_000, 60_000);
        count += 1;
    }
    assert_eq!(count, (ARENA_LEN - MAX_SLOT_LEN) / 60_000 + 1);
}

#[test]
fn a_train_has_at_most_64_segments() {
    let mut bench = Bench::new();
    for _ in 0..65 {
        bench.push(UNDERLAY_B, 10);
    }
    assert_eq!(bench.trains(), [vec![10; 64], vec![10]]);
}

#[test]
fn a_train_has_at_most_65_507_bytes() {
    let mut bench = Bench::new();
    for _ in 0..46 {
        bench.push(UNDERLAY_B, 1_472);
    }
    assert_eq!(bench.trains(), [vec![1_472; 44], vec![1_472; 2]]);
}

#[test]
fn datagrams_come_one_by_one_from_any_place_on() {
    let mut bench = Bench::new();
    for len in [100, 100, 40, 50, 50] {
        bench.push(UNDERLAY_B, len);
    }
    let lens = |train, first| -> Vec<_> {
        bench.batch.queues()[0]
            .datagrams_from(train, first)
            .map(|datagram| datagram.payload.len())
            .collect()
    };
    assert_eq!(lens(0, 0), [100, 100, 40, 50, 50]);
    assert_eq!(lens(0, 2), [40, 50, 50]);
    assert_eq!(lens(1, 1), [50]);
}

#[test]
fn a_full_batch_gives_no_slot() {
    let mut bench = Bench::new();
    let pushed = (0..1_000).take_while(|_| bench.push(UNDERLAY_B, 1_472)).count();
    assert_eq!(pushed, ARENA_LEN / 1_472);
    let mut bench = Bench::new();
    let pushed = (1..1_000).take_while(|len| bench.push(UNDERLAY_B, *len)).count();
    assert_eq!(pushed, MAX_TRAINS);
}
