//! What the engine reports about itself, as plain values.

use tunneld_core::adjacency::Parameters;
use tunneld_core::counters::Direction;
use tunneld_core::fib::Settings;
use tunneld_core::prefix::Prefix;
use tunneld_handshake::key::PublicKey;

use crate::duty::Duty;
use crate::keying::Trusted;

/// What the engine holds.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// How many changes have been carried out.
    pub generation: u64,
    /// The settings, once there are some.
    pub settings: Option<Settings>,
    /// The adjacencies, sorted by name.
    pub adjacencies: Vec<(String, Parameters)>,
    /// The prefixes with the names of their targets, sorted by address and length.
    pub entries: Vec<(Prefix, String)>,
    /// Who is trusted, with what its record says, sorted by key.
    pub identities: Vec<(PublicKey, Trusted)>,
}

/// A reading of what one worker did in one direction.
#[derive(Debug, Clone, Copy)]
pub struct WorkerReading {
    /// Number of the worker.
    pub worker: usize,
    /// Which of its directions.
    pub direction: Direction,
    /// Batches handled.
    pub batches: u64,
    /// Packets that came in.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A sign of life of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// Number of the worker.
    pub worker: usize,
    /// Which of its threads.
    pub duty: Duty,
    /// The kernel's number of it, 0 before it has one.
    pub thread_id: i32,
    /// Whether the thread runs.
    pub alive: bool,
    /// Rises at least once a second while it is healthy.
    pub beats: u64,
}
