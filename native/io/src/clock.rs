//! The clocks, read once per batch.

use rustix::time::{ClockId, clock_gettime};

/// Returns nanoseconds on CLOCK_BOOTTIME, which keys live by: it also runs while the machine sleeps.
pub(crate) fn now_ns() -> u64 {
    nanoseconds(ClockId::Boottime)
}

/// Returns the time of day, in nanoseconds since 1970.
pub(crate) fn wall_ns() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// Returns what a time on CLOCK_BOOTTIME is on CLOCK_MONOTONIC, by how far they are apart now.
pub(crate) fn to_monotonic(boot_ns: u64) -> u64 {
    let asleep_ns = now_ns().saturating_sub(nanoseconds(ClockId::Monotonic));
    boot_ns.saturating_sub(asleep_ns)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + now.tv_nsec as u64
}
