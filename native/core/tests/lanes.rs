//! What several threads seal by one SA.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;

use tunneld_core::sad::{Claim, SealingSet};
use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Secret;
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_esp::spi::SpiBase;

#[test]
fn a_lane_that_many_threads_use_first_has_every_number_once() {
    // Nobody but its worker uses a lane, except for dummies.
    for round in 0..20 {
        let direction = Direction {
            secret: Secret::new(&[7; Secret::LEN]),
            provider: Provider::Ring,
            cipher: Cipher::ChaCha20Poly1305,
            base: SpiBase::of_random(round),
            lanes: 1,
            agreed_ns: 0,
        };
        let set = SealingSet::new(SpiBase::of_random(100), Claim::default(), direction);
        let seal = || {
            let mut room = [0; SealingSet::DUMMY_ROOM];
            let one = |_| {
                set.seal_dummy(1, &mut room).unwrap();
                u32::from_be_bytes(room[4..8].try_into().unwrap())
            };
            (0..50).map(one).collect::<Vec<_>>()
        };
        let numbers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(seal)).collect();
            threads.into_iter().flat_map(|one| one.join().unwrap()).collect::<BTreeSet<_>>()
        });
        assert!(numbers.into_iter().eq(1..=200), "round {round}");
    }
}
