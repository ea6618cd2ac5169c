use std::cell::RefCell;

use super::*;

const MS: u64 = 1_000_000;

fn peer(number: usize) -> SocketAddr {
    ([192, 0, 2, 1], number as u16).into()
}

/// The sidings over a kernel that holds what each peer was sent, and lets go of it at a rate.
struct World {
    sidings: Sidings,
    /// For each siding how many bytes of which peer wait in it, oldest first.
    queues: RefCell<Vec<Vec<(usize, usize)>>>,
    /// Bytes a millisecond.
    rate: fn(usize) -> usize,
    now_ns: u64,
}

impl World {
    fn new(count: usize, rate: fn(usize) -> usize) -> Self {
        let queues = RefCell::new(vec![Vec::new(); count]);
        Self { sidings: Sidings::new(count), queues, rate, now_ns: 0 }
    }

    fn held(&self, siding: usize) -> usize {
        self.queues.borrow()[siding].iter().map(|(_, bytes)| bytes).sum()
    }

    fn set_aside(&mut self, number: usize, is_heard: bool) -> Option<usize> {
        let queues = &self.queues;
        let held = |siding: usize| queues.borrow()[siding].iter().map(|(_, bytes)| bytes).sum();
        self.sidings.set_aside(peer(number), is_heard, self.now_ns, &held)
    }

    /// Sends `bytes` to a peer that has a siding; returns whether they were taken.
    fn send(&mut self, number: usize, bytes: usize) -> bool {
        let siding = self.sidings.home(&peer(number)).unwrap();
        let (costs, held) = (std::iter::once(bytes), self.held(siding));
        let taken = self.sidings.admit(siding, costs, || held, self.now_ns) == 1;
        if taken {
            self.queues.borrow_mut()[siding].push((number, bytes));
        }
        self.sidings.sent(siding, self.held(siding));
        taken
    }

    /// Lets a millisecond pass, in which every peer's way takes its rate.
    fn pass(&mut self) {
        self.now_ns += MS;
        let mut left = std::collections::HashMap::new();
        for queue in self.queues.borrow_mut().iter_mut() {
            for (number, bytes) in queue.iter_mut() {
                let left = left.entry(*number).or_insert_with(|| (self.rate)(*number));
                let gone = (*left).min(*bytes);
                *bytes -= gone;
                *left -= gone;
            }
            queue.retain(|(_, bytes)| *bytes > 0);
        }
    }
}

#[test]
fn nobody_is_set_aside_unasked() {
    let sidings = Sidings::new(8);
    assert_eq!(sidings.home(&peer(1)), None);
    assert!(Sidings::new(0).is_empty() && Sidings::new(3).is_empty());
}

#[test]
fn a_slow_way_has_its_own_queue_of_a_bounded_time_and_an_idle_one_takes_all() {
    // 5 Mbit/s to the first, 10 Gbit/s to the second.
    let mut world = World::new(8, |number| [625, 1_250_000][number]);
    let homes = [0, 1].map(|number| world.set_aside(number, true).unwrap());
    assert_ne!(homes[0], homes[1]);
    let mut refused = [0, 0];
    for _ in 0..3_000 {
        for (number, refused) in refused.iter_mut().enumerate() {
            // 400 Mbit/s, in trains.
            *refused += usize::from(!world.send(number, 50_000));
        }
        world.pass();
    }
    assert!(refused[0] > 2_900, "what its way does not take is dropped: {refused:?}");
    assert_eq!(refused[1], 0, "nobody else loses anything");
    let held = world.held(homes[0]);
    assert!((1..=MIN_LIMIT).contains(&held), "{held} bytes are in its queue");
}

#[test]
fn a_fast_way_that_is_full_has_a_queue_by_its_rate() {
    // 1 Gbit/s, sent 10.
    let mut world = World::new(8, |_| 125_000);
    let home = world.set_aside(0, true).unwrap();
    for _ in 0..1_000 {
        for _ in 0..20 {
            world.send(0, 62_500);
        }
        world.pass();
    }
    let queue_ms = world.held(home) / 125_000;
    assert!((40..=100).contains(&queue_ms), "{queue_ms} ms");
    // A burst after a rest is taken whole.
    (0..1_000).for_each(|_| world.pass());
    assert!((0..7).all(|_| world.send(0, 65_536 + 768)));
}

#[test]
fn dead_peers_share_what_there_is_and_leave_room_for_those_heard_from() {
    const DEAD: usize = 200;
    let mut world = World::new(64, |number| if number < DEAD { 0 } else { 1_250_000 });
    for _ in 0..DEAD {
        for number in 0..DEAD {
            if world.sidings.home(&peer(number)).is_none() {
                world.set_aside(number, false);
            } else {
                world.send(number, 968);
            }
        }
        world.pass();
    }
    let held: Vec<_> = (0..64).map(|siding| world.held(siding)).collect();
    assert!(held.iter().all(|held| *held <= FIRST_LIMIT), "{held:?}");
    assert!((0..DEAD).all(|number| world.sidings.home(&peer(number)).is_some()), "all are aside");
    // As many living ones as there are reserved, and more: each finds an empty siding.
    for number in DEAD..DEAD + 30 {
        assert!(world.set_aside(number, true).is_some());
        assert!(world.send(number, 60_000), "{number}");
        world.pass();
    }
    // One that nothing is known of shares, and is sent a little nevertheless.
    let newcomer = peer(DEAD + 40);
    world.set_aside(DEAD + 40, false).unwrap();
    assert!(world.sidings.is_sharing(&newcomer));
    let mut trickled = |now_ns| {
        (0..20).filter(|_| world.sidings.trickles(&newcomer, 1_500, || 500, now_ns)).count()
    };
    let now_ns = 1_000_000 * MS;
    assert_eq!(trickled(now_ns), 9);
    assert_eq!(trickled(now_ns + 1_000 * MS), 2);
    assert_eq!(trickled(now_ns + 2_000 * MS), 3);
    assert_eq!(trickled(now_ns + 60_000 * MS), 9);
    // Its peer lives once one has left: the last one, or the one that is watched.
    let (other, mut later_ns) = (peer(DEAD - 1), now_ns + 120_000 * MS);
    assert!(world.sidings.trickles(&newcomer, 1_500, || 500, later_ns));
    assert!(!world.sidings.is_through(&newcomer, || 2_000));
    assert!(world.sidings.trickles(&other, 1_500, || 2_000, later_ns + 4 * MS));
    assert!(world.sidings.is_through(&newcomer, || 500));
    assert!(
        world.sidings.is_through(&other, || 2_000) && !world.sidings.is_through(&other, || 2_001)
    );
    later_ns += 6 * MS;
    assert!(world.sidings.trickles(&other, 1_500, || 2_000, later_ns));
    assert!(!world.sidings.is_through(&newcomer, || 500), "it is watched no longer");
}

#[test]
fn a_siding_that_is_needed_no_longer_goes_to_the_next() {
    let mut world = World::new(4, |_| 1_000_000);
    for number in 0..100 {
        assert!(world.set_aside(number, true).is_some());
        assert!(world.send(number, 60_000));
        world.pass();
    }
    let aside = (0..100).filter(|number| world.sidings.home(&peer(*number)).is_some()).count();
    assert_eq!(aside, 3, "all but the trickle");
}

#[test]
fn however_many_peers_are_stuck_the_memory_is_bounded() {
    let mut world = World::new(8, |_| 0);
    let room = world.sidings.homes.capacity();
    for number in 0..10_000 {
        if world.set_aside(number, false).is_some() {
            world.send(number, 60_000);
        }
        world.now_ns += LOOK_NS;
    }
    assert_eq!((world.sidings.homes.len(), world.sidings.homes.capacity()), (MAX_HOMES, room));
}

#[test]
fn peers_that_are_gone_keep_nobody_else_out() {
    let mut world = World::new(8, |number| if number < 10_000 { 100 } else { 1_250_000 });
    for number in 0..2 * MAX_HOMES {
        if world.set_aside(number, false).is_some() {
            world.send(number, 60_000);
        }
        world.now_ns += LOOK_NS;
    }
    assert_eq!(world.sidings.homes.len(), MAX_HOMES);
    assert_eq!(world.set_aside(10_000, true), None, "those before it are stuck");
    // Nobody sends to them any more: their hosts are given up, and what was in hand is gone.
    world.queues.borrow_mut().iter_mut().for_each(Vec::clear);
    world.now_ns += SETTLED_NS;
    assert!(world.set_aside(10_000, false).is_some());
    assert!(world.send(10_000, 60_000));
    assert_eq!(world.sidings.homes.len(), 1);
}
