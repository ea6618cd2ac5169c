//! Bulk transfers over connected TCP sockets, a thread each.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::RawFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::load::{again, at_least_a_little};

/// As much as iperf3 writes at once.
const CHUNK: usize = 128 << 10;
/// How often a receiver looks whether it is over.
const LOOK: Duration = Duration::from_millis(100);

/// What one end of a transfer saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Streams {
    /// Bytes of each stream.
    pub bytes: Vec<u64>,
    /// Of the sender how long it went on; of the receiver from the first byte to the last of all.
    pub seconds: f64,
}

/// Writes to every socket for `duration`, then ends each stream.
///
/// # Errors
///
/// The other end went away, or what the kernel refuses.
pub fn send_streams(sockets: &[RawFd], duration: Duration) -> Result<Streams> {
    let streams = opened(sockets)?;
    let began = Instant::now();
    let bytes = each(streams, |mut stream| {
        stream.set_write_timeout(Some(LOOK))?;
        let chunk = vec![0x5a; CHUNK];
        let mut written = 0;
        while began.elapsed() < duration {
            match stream.write(&chunk) {
                Ok(len) => written += len as u64,
                Err(error) if is_over_time(error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(written)
    })?;
    Ok(Streams { bytes, seconds: began.elapsed().as_secs_f64() })
}

/// Reads from every socket until its stream ends, at most for `longest`.
///
/// # Errors
///
/// What the kernel refuses.
pub fn receive_streams(sockets: &[RawFd], longest: Duration) -> Result<Streams> {
    let streams = opened(sockets)?;
    let began = Instant::now();
    let seen = each(streams, |mut stream| {
        stream.set_read_timeout(Some(at_least_a_little(LOOK.min(longest))))?;
        let mut chunk = vec![0; CHUNK];
        let (mut read, mut span) = (0, None);
        while began.elapsed() < longest {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => {
                    read += len as u64;
                    let now = Instant::now();
                    span = Some((span.map_or(now, |(first, _)| first), now));
                }
                Err(error) if is_over_time(error.kind()) => {}
                // It ends as it likes: what came, came.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error),
            }
        }
        Ok((read, span))
    })?;
    let first = seen.iter().filter_map(|(_, span)| span.map(|(first, _)| first)).min();
    let last = seen.iter().filter_map(|(_, span)| span.map(|(_, last)| last)).max();
    let seconds = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    Ok(Streams { bytes: seen.iter().map(|(bytes, _)| *bytes).collect(), seconds })
}

fn opened(sockets: &[RawFd]) -> Result<Vec<TcpStream>> {
    let opened = |number: &RawFd| {
        let stream = TcpStream::from(again(*number)?);
        stream.set_nonblocking(false)?;
        Ok(stream)
    };
    sockets.iter().map(opened).collect()
}

fn each<T: Send>(
    streams: Vec<TcpStream>,
    work: impl Fn(TcpStream) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || work(stream))).collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())))
            .collect()
    })
}

fn is_over_time(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::TimedOut)
}
