//! The thread that shakes hands: what data threads leave, what is due, what was sealed and opened.
//!
//! Path of a message: `intake` → **`keying::thread`** → `state`.
//! It sleeps until somebody nudges it or something is due. It has a priority below that of the data
//! threads: no Diffie-Hellman is done by those, and under a flood of messages data goes first.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tunneld_core::waiting::{Room, Waiting};

use super::Keying;
use super::intake::CAPACITY;
use crate::clock;
use crate::pulse::Mode;

/// How often the sets are looked at, while there are any.
const LOOK_NS: u64 = 200_000_000;

/// How long it sleeps where nothing is due; a pulse beats more often.
const IDLE_NS: u64 = 1_000_000_000;

/// What the thread works with.
pub(crate) struct KeyingThread {
    pub(crate) keying: Arc<Keying>,
    /// Where each worker leaves packets that wait for keys.
    pub(crate) waiting: Vec<Arc<Waiting>>,
}

impl KeyingThread {
    /// Runs until it is told to stop.
    pub(crate) fn run(self) -> Result<(), Errno> {
        let (mut room, mut looked_ns) = (Room::default(), 0);
        let mut idle_ns = 0;
        loop {
            match self.keying.pulse.wait(Duration::from_nanos(idle_ns))? {
                Mode::Stop => return Ok(()),
                Mode::Pause => idle_ns = IDLE_NS,
                Mode::Run => {
                    self.shake_hands();
                    self.take_waiting(&mut room);
                    let is_due = clock::now_ns() >= looked_ns + LOOK_NS;
                    if self.keying.intake.take_news() || is_due {
                        looked_ns = clock::now_ns();
                        self.keying.on_thread(|state, at| state.look(at));
                    }
                    self.keying.on_thread(|state, at| state.on_node(at, |node, at| node.tick(at)));
                    idle_ns = self.idle_ns(looked_ns);
                }
            }
        }
    }

    /// Takes the messages that wait, as many as wait at most: then others have their turn.
    fn shake_hands(&self) {
        let Keying { intake, pulse, .. } = &*self.keying;
        for _ in 0..CAPACITY {
            let Some((message, queued)) = intake.take() else { break };
            pulse.beat();
            self.keying.on_thread(|state, at| {
                state.message(message.bytes(), message.from, queued, at);
            });
        }
        for from in intake.take_unknown() {
            self.keying.on_thread(|state, at| {
                state.on_node(at, |node, at| node.unknown_spi(from, at));
            });
        }
    }

    /// Takes over the packets that have no keys.
    fn take_waiting(&self, room: &mut Room) {
        for (worker, waiting) in self.waiting.iter().enumerate() {
            waiting.take(room);
            for waiter in room.iter() {
                self.keying.on_thread(|state, at| state.wants(worker, &waiter, at));
            }
            room.clear();
        }
    }

    /// Returns how long there is nothing to do.
    fn idle_ns(&self, looked_ns: u64) -> u64 {
        if !self.keying.intake.is_empty() {
            return 0;
        }
        let (deadline_ns, has_sets) = self.keying.next();
        let due_ns = [deadline_ns, has_sets.then_some(looked_ns + LOOK_NS)];
        let now_ns = clock::now_ns();
        let idle_ns =
            due_ns.into_iter().flatten().map(|due_ns| due_ns.saturating_sub(now_ns)).min();
        idle_ns.unwrap_or(IDLE_NS).min(IDLE_NS)
    }
}
