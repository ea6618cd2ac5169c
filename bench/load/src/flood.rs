//! A flood: numbered datagrams as fast as the sender can, counted where they come out.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::mmsg::{SLOTS, Slots};
use crate::socket;

/// Each datagram begins with its number, big-endian.
const NUMBER_LEN: usize = size_of::<u64>();
/// A flood is over when nothing has come for this long.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends for `duration`; tells how many datagrams the kernel took and how often it refused.
pub(crate) fn send(to: SocketAddr, len: usize, duration: Duration) -> Outcome<String> {
    if !(NUMBER_LEN..=1472).contains(&len) {
        return Err(format!("size {len}: expected {NUMBER_LEN} to 1472 bytes").into());
    }
    let socket = socket::connected(to)?;
    let mut slots = Slots::new(len);
    let (mut sent, mut refused) = (0_u64, 0_u64);
    let started = Instant::now();
    while started.elapsed() < duration {
        for place in 0..SLOTS {
            let number = sent + place as u64;
            slots.slot_mut(place)[..NUMBER_LEN].copy_from_slice(&number.to_be_bytes());
        }
        match slots.send(&socket) {
            Ok(count) => sent += count as u64,
            Err(error) if is_passing(&error) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!(r#"{{"sent": {sent}, "refused": {refused}, "seconds": {seconds:.6}}}"#))
}

/// A full queue, or the ICMP error that an earlier datagram met.
fn is_passing(error: &Error) -> bool {
    error.kind() == ErrorKind::ConnectionRefused || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Counts a flood from its first datagram to its last, waiting at most `timeout` for either.
pub(crate) fn receive(socket: &UdpSocket, timeout: Duration) -> Outcome<String> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut slots = Slots::new(NUMBER_LEN);
    let (mut received, mut late, mut highest) = (0_u64, 0_u64, 0_u64);
    let began = Instant::now();
    let mut span: Option<(Instant, Instant)> = None;
    while began.elapsed() < timeout {
        let count = match slots.receive(socket) {
            Ok(count) => count,
            // A read with a limit fails so in a process that was stopped and goes on: signal(7).
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock && span.is_none() => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        span = Some((span.map_or(now, |(first, _)| first), now));
        received += count as u64;
        for place in 0..count {
            let number = slots.received(place).try_into().map_or(0, u64::from_be_bytes);
            late += u64::from(number < highest);
            highest = highest.max(number);
        }
    }
    let seconds = span.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    Ok(format!(r#"{{"received": {received}, "late": {late}, "seconds": {seconds:.6}}}"#))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn member(json: &str, name: &str) -> f64 {
        let after = json.split(&format!("\"{name}\": ")).nth(1).unwrap();
        after.split([',', '}']).next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_flood_over_loopback_is_counted_in_order_and_never_more_than_was_sent() {
        let receiver = socket::bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = receiver.local_addr().unwrap();
        let counting = thread::spawn(move || receive(&receiver, Duration::from_secs(20)).unwrap());
        let sent = send(to, 64, Duration::from_millis(100)).unwrap();
        let received = counting.join().unwrap();
        assert!(member(&received, "received") > 0.0, "{received}");
        assert!(member(&received, "received") <= member(&sent, "sent"), "{received} of {sent}");
        assert_eq!(member(&received, "late").to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_receiver_that_nobody_sends_to_ends_with_nothing() {
        let receiver = socket::bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let said = receive(&receiver, Duration::from_millis(100)).unwrap();
        assert_eq!(said, r#"{"received": 0, "late": 0, "seconds": 0.000000}"#);
    }
}
