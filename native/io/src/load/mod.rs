//! Traffic for measurements: paced datagrams, echoes, round trips and streams, on given sockets.
//!
//! No part of the data path. Every call ends by itself: after its duration, or after the time it
//! was told to wait. Each datagram begins with the token of its measurement, so that what
//! strangers send is neither counted nor answered.

mod datagrams;
mod mmsg;
mod round_trips;
mod streams;

#[cfg(test)]
mod tests;

use std::net::UdpSocket;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use crate::descriptor::duplicate;
use crate::error::Error;

pub use datagrams::{Received, Sent, receive, send};
pub use round_trips::{RoundTrips, echo, round_trips};
pub use streams::{Streams, receive_streams, send_streams};

/// What the datagrams of one measurement begin with.
pub type Token = [u8; TOKEN];
/// Length of a token, in bytes.
pub const TOKEN: usize = 8;
/// Length of the token and the number of a datagram, in bytes.
pub const HEAD: usize = TOKEN + size_of::<u64>();
/// Length of the longest datagram, in bytes.
pub const LONGEST: usize = 65_507;

/// The number of a datagram that says the measurement is over.
const OVER: u64 = u64::MAX;
/// How often that is said: one may be lost.
const OVER_TIMES: usize = 3;

/// Nanoseconds on the monotonic clock, from a moment of its own.
pub fn monotonic_ns() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Returns a blocking duplicate of a UDP socket.
fn udp(number: RawFd) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::from(again(number)?);
    socket.set_nonblocking(false)?;
    Ok(socket)
}

fn again(number: RawFd) -> std::io::Result<OwnedFd> {
    duplicate("socket", number).map_err(|error| match error {
        Error::Descriptor { errno, .. } => errno.into(),
        other => std::io::Error::other(other.to_string()),
    })
}

fn head(token: Token, number: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..TOKEN].copy_from_slice(&token);
    head[TOKEN..].copy_from_slice(&number.to_be_bytes());
    head
}

/// Says that the measurement is over. Where all of it is lost, the other end's time runs out.
fn say_over(socket: &UdpSocket, token: Token) {
    for _ in 0..OVER_TIMES {
        // Refused for what an earlier datagram met, it is lost as on the way.
        let _ = socket.send(&head(token, OVER));
    }
}

/// Returns the number of a datagram of this measurement.
fn number_of(token: Token, datagram: &[u8]) -> Option<u64> {
    let (theirs, rest) = datagram.split_at_checked(TOKEN)?;
    let number = rest.get(..size_of::<u64>())?.try_into().ok()?;
    (theirs == token).then(|| u64::from_be_bytes(number))
}

/// A read's time limit: none of 0 s, which std refuses.
fn at_least_a_little(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}
