//! `tunneld-load`: what the benchmarks send and receive where iperf3 is too slow or too coarse.
//!
//! A program of its own, so that its CPU time is not the benchmark's; it is no part of the wheel.
//! Each command prints one JSON object to stdout; those that wait for others print `ready` first.

// It measures: the clock, sockets and the command line are what it is for.
#![allow(clippy::disallowed_methods)]

mod flood;
mod mmsg;
mod round_trip;
mod socket;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

const USAGE: &str = "\
tunneld-load send IP:PORT SIZE_BYTES SECONDS      flood, as fast as it goes
tunneld-load receive IP:PORT TIMEOUT_S            count a flood until it is over
tunneld-load echo IP:PORT                         send every datagram back, until a signal
tunneld-load round-trips IP:PORT COUNT INTERVAL_US";

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere to tell that stderr is gone.
            let _ = writeln!(std::io::stderr(), "tunneld-load: {error}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["send", to, size, seconds] => say(&flood::send(
            parse::<SocketAddr>(to)?,
            parse(size)?,
            Duration::try_from_secs_f64(parse(seconds)?)?,
        )?),
        ["receive", at, timeout] => {
            let socket = socket::bound(parse(at)?)?;
            say("ready")?;
            say(&flood::receive(&socket, Duration::try_from_secs_f64(parse(timeout)?)?)?)
        }
        ["echo", at] => {
            let socket = socket::bound(parse(at)?)?;
            say("ready")?;
            round_trip::echo(&socket)
        }
        ["round-trips", to, count, interval_us] => say(&round_trip::measure(
            parse(to)?,
            parse(count)?,
            Duration::from_micros(parse(interval_us)?),
        )?),
        _ => Err("unknown command".into()),
    }
}

fn parse<T: FromStr>(text: &str) -> Outcome<T>
where
    T::Err: Error,
{
    text.parse().map_err(|error| format!("{text:?}: {error}").into())
}

fn say(line: &str) -> Outcome<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}
