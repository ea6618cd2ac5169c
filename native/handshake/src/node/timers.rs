//! The waits of the state machine, and their jitter.
//!
//! Source: WireGuard whitepaper §6, with the changes that its field reports ask for.

use crate::Random;

const SECOND_NS: u64 = 1_000_000_000;

/// Age from which the initiator of an SA makes a new one when it seals.
pub const REKEY_INITIATOR_NS: u64 = 120 * SECOND_NS;
/// The same for the responder.
pub const REKEY_RESPONDER_NS: u64 = 150 * SECOND_NS;
/// By how much these two ages vary. By a fifth they would overlap, and reach the end of the SA.
pub const REKEY_SPREAD_NS: u64 = 10 * SECOND_NS;
/// Age at which an SA ends.
pub const END_NS: u64 = 180 * SECOND_NS;
/// How long nothing may be heard after sending before new SAs are made.
pub const QUIET_NS: u64 = 15 * SECOND_NS;
/// How long after data a dummy says that this node is alive.
pub const ALIVE_NS: u64 = 10 * SECOND_NS;
/// Waits between initiations; the last one repeats.
pub const REPEAT_NS: [u64; 5] =
    [SECOND_NS / 2, SECOND_NS, 2 * SECOND_NS, 4 * SECOND_NS, 5 * SECOND_NS];
/// How long after its first message a handshake is given up.
pub const GIVE_UP_NS: u64 = 90 * SECOND_NS;
/// Waits between dummies that confirm an SA.
pub const CONFIRM_NS: [u64; 3] = [SECOND_NS, 2 * SECOND_NS, 4 * SECOND_NS];
/// Least time between two answers to one peer, unless the later initiation is the newest seen.
pub const ANSWER_NS: u64 = SECOND_NS / 50;
/// Least time between handshakes with one peer that somebody else may have provoked.
pub const PROVOKED_NS: u64 = 5 * SECOND_NS;
/// Handshakes a second that somebody else may provoke in all.
pub const PROVOKED_PER_S: u64 = 50;
/// Over how long handshakes with all peers are spread.
pub const SPREAD_NS: u64 = 2 * SECOND_NS;
/// Messages in the queue from which on there is load: an eighth of its 64.
pub const LOADED: usize = 8;
/// How long load lasts after the queue was that full.
pub const LOAD_NS: u64 = SECOND_NS;

/// Confirmed sets kept for each peer.
pub const MOST_CONFIRMED: usize = 4;
/// Answers kept for each peer that nobody has confirmed.
pub const MOST_UNCONFIRMED: usize = 2;

/// Returns a number below `end`.
pub(crate) fn below(end: u64, random: &mut dyn Random) -> u64 {
    // The bias of the remainder is 2^-30 of these waits.
    u64::from_be_bytes(crate::random(random)) % end.max(1)
}

/// Returns a wait that is up to a fifth shorter or longer.
pub(crate) fn about(wait_ns: u64, random: &mut dyn Random) -> u64 {
    wait_ns - wait_ns / 5 + below(wait_ns / 5 * 2 + 1, random)
}

/// Returns an age that is up to [`REKEY_SPREAD_NS`] less or more.
pub(crate) fn rekey_age(age_ns: u64, random: &mut dyn Random) -> u64 {
    age_ns - REKEY_SPREAD_NS + below(2 * REKEY_SPREAD_NS + 1, random)
}
