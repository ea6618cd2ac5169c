//! Round trips of single datagrams, one at a time.

use std::io::Result;
use std::net::UdpSocket;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::load::datagrams::is_a_pause;
use crate::load::{HEAD, LONGEST, OVER, Token, at_least_a_little, head, number_of, say_over, udp};

/// What somebody who asked saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// Datagrams that went.
    pub sent: u64,
    /// Nanoseconds from question to answer, in the order of the answers.
    pub nanoseconds: Vec<u64>,
}

/// Sends the datagrams of a measurement back on a connected socket, until who asks is through,
/// none came for `silence` or `longest` is over; returns how many.
///
/// # Errors
///
/// What the kernel refuses.
pub fn echo(socket: RawFd, token: Token, silence: Duration, longest: Duration) -> Result<u64> {
    let socket = udp(socket)?;
    socket.set_read_timeout(Some(at_least_a_little(silence.min(longest))))?;
    let mut bytes = vec![0; LONGEST];
    let (began, mut last, mut answered) = (Instant::now(), Instant::now(), 0);
    while began.elapsed() < longest && last.elapsed() < silence {
        let datagram = match socket.recv(&mut bytes) {
            Ok(len) => &bytes[..len],
            Err(error) if is_a_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        if let Some(number) = number_of(token, datagram) {
            if number == OVER {
                break;
            }
            last = Instant::now();
            // What does not go is lost to who asked, as it would be on the way.
            answered += u64::from(socket.send(datagram).is_ok());
        }
    }
    Ok(answered)
}

/// Asks on a connected socket for `duration`, or `count` times, each `interval` after the answer
/// before, or when there was none for `patience`. It sleeps while it waits, as idle hosts do.
///
/// # Errors
///
/// What the kernel refuses.
pub fn round_trips(
    socket: RawFd,
    token: Token,
    count: u64,
    interval: Duration,
    patience: Duration,
    duration: Duration,
) -> Result<RoundTrips> {
    let socket = udp(socket)?;
    socket.set_read_timeout(Some(at_least_a_little(patience)))?;
    let mut seen = RoundTrips::default();
    let began = Instant::now();
    while seen.sent < count && began.elapsed() < duration {
        let asked = Instant::now();
        match socket.send(&padded(head(token, seen.sent))) {
            Ok(_) => {}
            Err(error) if is_a_pause(&error) => {}
            Err(error) => return Err(error),
        }
        if answered(&socket, token, seen.sent, patience)? {
            seen.nanoseconds.push(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        seen.sent += 1;
        std::thread::sleep(interval);
    }
    say_over(&socket, token);
    Ok(seen)
}

/// 56 bytes and 8 of UDP are what ping(8) sends behind its IP header.
fn padded(head: [u8; HEAD]) -> [u8; 56] {
    let mut datagram = [0; 56];
    datagram[..HEAD].copy_from_slice(&head);
    datagram
}

/// Waits for the answer to one datagram, past late answers to earlier ones.
fn answered(socket: &UdpSocket, token: Token, number: u64, patience: Duration) -> Result<bool> {
    let mut bytes = [0; HEAD];
    let began = Instant::now();
    while began.elapsed() < patience {
        match socket.recv(&mut bytes) {
            Ok(len) if number_of(token, &bytes[..len]) == Some(number) => return Ok(true),
            Ok(_) => {}
            Err(error) if is_a_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
