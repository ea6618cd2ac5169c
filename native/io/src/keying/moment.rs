//! The clocks and random bytes of a handshake, by the kernel.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use tunneld_handshake::Random;
use tunneld_handshake::node::Moment;
use tunneld_handshake::payload::Timestamp;

use crate::clock;
use crate::error::Error;

/// The kernel's random bytes. Source: getrandom(2).
pub(crate) struct Kernel;

impl Random for Kernel {
    /// # Panics
    ///
    /// The kernel gives none. It was asked at the start ([`check`]), and does not take it back.
    fn fill(&mut self, bytes: &mut [u8]) {
        if let Err(errno) = fill(bytes) {
            panic!("the kernel gives no random bytes any more: {errno}");
        }
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Asks for random bytes.
///
/// # Errors
///
/// The kernel gives none.
pub(crate) fn check() -> Result<(), Error> {
    fill(&mut [0; 16]).map_err(|errno| Error::Kernel { call: "getrandom", errno })
}

/// Returns what is now.
pub(crate) fn now(random: &mut Kernel) -> Moment<'_> {
    Moment { now_ns: clock::now_ns(), wall: Timestamp::of_unix_ns(clock::wall_ns()), random }
}
