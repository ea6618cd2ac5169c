//! Round trips of single small datagrams, one at a time, with silence between them.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::socket;

/// After this a datagram counts as lost. An answer that a busy machine held up is late, not lost.
const PATIENCE: Duration = Duration::from_secs(5);
const LEN: usize = 64;

/// Sends everything back to where it came from; ends by a signal only.
pub(crate) fn echo(socket: &UdpSocket) -> Outcome<()> {
    let mut bytes = [0; LEN];
    loop {
        let (len, from) = socket.recv_from(&mut bytes)?;
        socket.send_to(&bytes[..len], from)?;
    }
}

/// Sends `count` datagrams, each `interval` after the answer to the one before. Both processes
/// sleep while they wait, as idle hosts do.
pub(crate) fn measure(to: SocketAddr, count: u32, interval: Duration) -> Outcome<String> {
    let socket = socket::connected(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut round_trips_us = Vec::with_capacity(count as usize);
    let mut bytes = [0; LEN];
    for number in 0..count {
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let sent = Instant::now();
        socket.send(&bytes)?;
        if answered(&socket, number)? {
            round_trips_us.push(format!("{:.1}", sent.elapsed().as_secs_f64() * 1e6));
        }
        std::thread::sleep(interval);
    }
    let list = round_trips_us.join(", ");
    Ok(format!(r#"{{"sent": {count}, "round_trips_us": [{list}]}}"#))
}

/// Waits for the answer to one datagram, past late answers to earlier ones.
fn answered(socket: &UdpSocket, number: u32) -> Outcome<bool> {
    let mut bytes = [0; LEN];
    loop {
        match socket.recv(&mut bytes) {
            Ok(len) if len >= 4 && bytes[..4] == number.to_be_bytes() => return Ok(true),
            Ok(_) => {}
            // A read with a limit fails so in a process that was stopped and goes on: signal(7).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn every_round_trip_over_loopback_is_told() {
        let echoing = socket::bound("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = echoing.local_addr().unwrap();
        thread::spawn(move || echo(&echoing));
        let said = measure(to, 5, Duration::ZERO).unwrap();
        assert!(said.starts_with(r#"{"sent": 5, "round_trips_us": ["#), "{said}");
        assert_eq!(said.matches('.').count(), 5, "{said}");
    }
}
