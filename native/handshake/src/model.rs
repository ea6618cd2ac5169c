//! Histories of two to five nodes that go wrong in every way the network and hosts can.
//!
//! What must never happen is checked by `testing::world` as it would happen. Here: after the
//! faults end, every pair has keys within a bound, and the messages of a history are bounded.
//!
//! Each history hangs on its seed alone: a failure names it.

use crate::testing::Seeded;
use crate::testing::world::{EPOCH_NS, Faults, SECOND, World, claim};

/// How long after the faults a packet may take to get through, in seconds.
const BOUND_S: u64 = 30;

const YEAR_NS: u64 = 365 * 86_400 * SECOND;

fn faulty(world: &mut World, script: &mut Seeded) -> u64 {
    let hosts = world.hosts.len();
    world.faults = Faults {
        lost: script.below(60),
        doubled: script.below(30),
        delay_ns: script.below(3) * script.below(SECOND),
    };
    let mut passed_ns = 0;
    for _ in 0..10 + script.below(40) {
        let (here, other) = (script.below(hosts as u64) as usize, script.below(hosts as u64 - 1));
        let there = (here + 1 + other as usize) % hosts;
        match script.below(40) {
            0 => {
                let wall_ns = EPOCH_NS + script.below(3) * YEAR_NS - YEAR_NS;
                world.restart(here, wall_ns);
            }
            1 => world.hosts[here].wall_ns = EPOCH_NS + script.below(3) * YEAR_NS - YEAR_NS,
            2 => world.tell(here, there),
            3 => world.at(here, |node, at| node.set_claim(claim(here), at)),
            4 => world.at(here, |node, at| node.forget_keys(at)),
            5 => {
                world.send(here, there);
                world.send(there, here);
            }
            // Another port, as behind a NAT that forgot.
            6 => {
                let port = 8_286 + script.below(3) as u16;
                world.hosts[here].address.set_port(port);
            }
            // A quiet time, in which sets end.
            7 => {
                let quiet_ns = script.below(200) * SECOND;
                world.run(quiet_ns);
                passed_ns += quiet_ns;
            }
            8 => {
                let peer = world.key(there);
                world.at(here, |node, at| node.connect(&peer, at));
            }
            9 => {
                let key = world.key(there);
                world.at(here, |node, at| node.remove_peer(&key, at));
                world.tell(here, there);
            }
            _ => (0..1 + script.below(4)).for_each(|_| world.send(here, there)),
        }
        let step_ns = script.below(6 * SECOND);
        world.run(step_ns);
        passed_ns += step_ns;
    }
    passed_ns
}

/// Lets the network be well, and expects every pair to talk both ways within the bound.
fn mend(world: &mut World, seed: u64) {
    let hosts = world.hosts.len();
    world.faults = Faults::default();
    // The store tells everybody where everybody is; a host behind NAT has a record that is right.
    for here in 0..hosts {
        (0..hosts).filter(|there| *there != here).for_each(|there| world.tell(here, there));
    }
    let before: Vec<_> = world.hosts.iter().map(|host| host.received.clone()).collect();
    let is_missing = |world: &World, here: usize, there: usize| {
        here != there && world.hosts[there].received[here] == before[there][here]
    };
    for second in 0..=BOUND_S {
        let mut missing = Vec::new();
        for here in 0..hosts {
            missing.extend(
                (0..hosts)
                    .filter(|there| is_missing(world, here, *there))
                    .map(|there| (here, there)),
            );
        }
        if missing.is_empty() {
            return;
        }
        assert!(second < BOUND_S, "history {seed}: {missing:?} have no keys after {BOUND_S} s");
        missing.iter().for_each(|(here, there)| world.send(*here, *there));
        world.run(SECOND);
    }
}

/// Plays one history; returns what it sent, and how many pairs and seconds it had.
fn play(mut world: World, seed: u64) -> (u64, u64) {
    let mut script = Seeded::new(seed ^ 0x00c0_ffee);
    let mut seconds = 0;
    for _ in 0..1 + script.below(2) {
        seconds += faulty(&mut world, &mut script) / SECOND;
        mend(&mut world, seed);
        seconds += BOUND_S;
    }
    let hosts = world.hosts.len() as u64;
    let bound = hosts * (hosts - 1) * (60 + seconds);
    assert!(
        world.messages <= bound,
        "history {seed}: {} messages, at most {bound}",
        world.messages
    );
    (world.messages, bound)
}

fn hosts(seed: u64) -> usize {
    2 + (seed % 4) as usize
}

fn histories(seeds: std::ops::Range<u64>) {
    let mut most = (0, 1);
    for seed in seeds {
        let sent = play(World::new(hosts(seed), seed), seed);
        if sent.0 * most.1 > most.0 * sent.1 {
            most = sent;
        }
    }
    assert!(most.0 > 0, "nothing was sent");
}

#[test]
fn histories_of_the_first_quarter_end_well() {
    histories(0..2_500);
}

#[test]
fn histories_of_the_second_quarter_end_well() {
    histories(2_500..5_000);
}

#[test]
fn histories_of_the_third_quarter_end_well() {
    histories(5_000..7_500);
}

#[test]
fn histories_of_the_last_quarter_end_well() {
    histories(7_500..10_000);
}

#[test]
fn histories_by_the_cryptography_in_use_end_well() {
    for seed in 0..100 {
        play(World::real(hosts(seed), seed), seed);
    }
}
