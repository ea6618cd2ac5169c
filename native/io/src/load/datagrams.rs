//! Numbered datagrams at a given rate, or as fast as it goes, counted where they come out.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::load::mmsg::{SLOTS, Slots};
use crate::load::{HEAD, LONGEST, OVER, Token, at_least_a_little, head, number_of, say_over, udp};

/// Shorter waits cost more than they are exact.
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

/// What is still under way when the sender is through comes within this.
const DRAIN: Duration = Duration::from_millis(100);

/// What a sender did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// Their payloads, in bytes.
    pub bytes: u64,
    /// Calls that the kernel refused: a full queue, or an ICMP error before.
    pub refused: u64,
    /// How long it went on.
    pub seconds: f64,
}

/// What a receiver counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Received {
    /// Datagrams of the measurement.
    pub datagrams: u64,
    /// Their payloads, in bytes.
    pub bytes: u64,
    /// Those that came after one with a higher number.
    pub late: u64,
    /// Datagrams without the token.
    pub foreign: u64,
    /// From the first one to the last.
    pub seconds: f64,
}

/// Sends datagrams for `duration` on a connected socket, their sizes in turn; `per_second` of them,
/// or as many as go.
///
/// # Errors
///
/// A size is none, or what the kernel refuses for good.
pub fn send(
    socket: RawFd,
    token: Token,
    sizes: &[usize],
    per_second: Option<f64>,
    duration: Duration,
) -> Result<Sent> {
    let socket = udp(socket)?;
    let longest = sizes.iter().copied().max().unwrap_or(0);
    if longest > LONGEST || sizes.iter().any(|size| *size < HEAD) {
        return Err(Error::from(ErrorKind::InvalidInput));
    }
    let mut slots = Slots::new(longest.max(HEAD));
    let mut done = Sent::default();
    let started = Instant::now();
    loop {
        let passed = started.elapsed();
        if passed >= duration || sizes.is_empty() {
            break;
        }
        let count = per_second.map_or(SLOTS, |rate| due(rate, passed, done.datagrams));
        if count == 0 {
            let rate = per_second.unwrap_or(f64::INFINITY);
            let next = (done.datagrams + 1) as f64 / rate;
            let wait = Duration::try_from_secs_f64(next).unwrap_or(duration).min(duration);
            std::thread::sleep(wait.saturating_sub(passed).max(SHORTEST_WAIT));
            continue;
        }
        for place in 0..count {
            let number = done.datagrams + place as u64;
            let size = sizes[number as usize % sizes.len()];
            slots.slot_mut(place, size)[..HEAD].copy_from_slice(&head(token, number));
        }
        match slots.send(&socket, count) {
            Ok(count) => {
                let numbers = done.datagrams as usize..done.datagrams as usize + count;
                done.bytes += numbers.map(|it| sizes[it % sizes.len()] as u64).sum::<u64>();
                done.datagrams += count as u64;
            }
            Err(error) if is_passing(&error) => done.refused += 1,
            Err(error) => return Err(error),
        }
    }
    done.seconds = started.elapsed().as_secs_f64();
    say_over(&socket, token);
    Ok(done)
}

/// Returns how many datagrams are behind the rate, at most a batch.
fn due(rate: f64, passed: Duration, sent: u64) -> usize {
    let ought = rate * passed.as_secs_f64() + 1.0;
    (ought as u64).saturating_sub(sent).min(SLOTS as u64) as usize
}

/// A full queue, or the ICMP error that an earlier datagram met.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Counts datagrams on a connected socket: waits `timeout` at most for the first one, and ends when
/// nothing of the measurement came for `silence`, soon after the sender said that it is through, or
/// `longest` after the first one.
///
/// # Errors
///
/// What the kernel refuses.
pub fn receive(
    socket: RawFd,
    token: Token,
    timeout: Duration,
    silence: Duration,
    longest: Duration,
) -> Result<Received> {
    let socket = udp(socket)?;
    socket.set_read_timeout(Some(at_least_a_little(silence.min(timeout))))?;
    let mut silence = silence;
    let mut slots = Slots::new(HEAD);
    let (mut seen, mut highest) = (Received::default(), 0_u64);
    let began = Instant::now();
    let mut span: Option<(Instant, Instant)> = None;
    loop {
        let over = match span {
            None => began.elapsed() >= timeout,
            Some((first, last)) => last.elapsed() >= silence || first.elapsed() >= longest,
        };
        if over {
            break;
        }
        let count = match slots.receive(&socket) {
            Ok(count) => count,
            Err(error) if is_a_pause(&error) => continue,
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let before = seen.datagrams;
        for place in 0..count {
            let (datagram, len) = slots.received(place);
            let Some(number) = number_of(token, datagram) else {
                seen.foreign += 1;
                continue;
            };
            if number == OVER {
                if silence > DRAIN {
                    silence = DRAIN;
                    socket.set_read_timeout(Some(DRAIN))?;
                }
                // Where nothing else came, nothing will.
                span.get_or_insert((now, now));
                continue;
            }
            seen.datagrams += 1;
            seen.bytes += len as u64;
            seen.late += u64::from(number < highest);
            highest = highest.max(number);
        }
        // Strangers must not keep it waiting.
        if seen.datagrams > before {
            span = Some((span.map_or(now, |(first, _)| first), now));
        }
    }
    seen.seconds = span.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    Ok(seen)
}

/// No datagram in time, a signal, or the ICMP error that an answer of ours met.
pub(super) fn is_a_pause(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
    )
}
