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
        let id = self.fib.by_endpoint(address.into()).unwrap();
        let Some(slot) = self.batch.slot(0, len) else { return false };
        slot.fill(len as u8);
        self.batch.push(0, id, (address, 8285).into(), len, len);
        true
    }

    /// The trains, as the lengths of their datagrams.
    fn trains(&self) -> Vec<Vec<usize>> {
        let lens = |train: &Train| -> Vec<usize> {
            self.batch.queues()[0].bytes(train).chunks(train.segment_len).map(<[u8]>::len).collect()
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
fn peers_do_not_share_a_train() {
    let mut bench = Bench::new();
    for address in [UNDERLAY_B, UNDERLAY_C, UNDERLAY_B] {
        bench.push(address, 100);
    }
    assert_eq!(bench.trains().len(), 3);
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
