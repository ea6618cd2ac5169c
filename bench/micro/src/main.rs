//! `tunneld-micro`: what the native core costs per packet, without any kernel in between.
//!
//! It prints one JSON object per case, with the nanoseconds per packet in each round. A round takes
//! every case in turn, so that what the machine does meanwhile happens to all of them. With an
//! argument it takes the cases whose names begin so. With a case and a number of runs it runs just
//! that and prints nothing, for a program that counts instructions.

// It measures: the clock and the command line are what it is for.
#![allow(clippy::disallowed_methods)]

mod aead;
mod cases;
mod esp;
mod packets;
mod sealed;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use cases::{Case, cases};

const ROUNDS: usize = 25;
const ROUND_NS: u128 = 20_000_000;
/// What part of a round goes before it, for the caches to hold what this case uses.
const WARM_UP: usize = 4;

/// A case, and what was seen of it.
struct Measured {
    case: Case,
    /// Runs in a round.
    repeat: usize,
    /// Nanoseconds per packet in each round.
    rounds: Vec<f64>,
}

impl Measured {
    /// Finds out how many runs make a round.
    fn new(case: Case) -> Self {
        let mut measured = Self { case, repeat: 1, rounds: Vec::with_capacity(ROUNDS) };
        while measured.time(measured.repeat) < ROUND_NS {
            measured.repeat *= 2;
        }
        measured
    }

    /// Runs `count` times; returns the nanoseconds that took.
    fn time(&mut self, count: usize) -> u128 {
        let start = Instant::now();
        (0..count).for_each(|_| (self.case.run)());
        start.elapsed().as_nanos()
    }

    fn round(&mut self) {
        self.time(self.repeat / WARM_UP);
        let ns = self.time(self.repeat) as f64;
        self.rounds.push(ns / (self.repeat * self.case.packets) as f64);
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: Vec<_> = self.rounds.iter().map(|ns| format!("{ns:.2}")).collect();
        let (name, packets, rounds) = (&self.case.name, self.case.packets, rounds.join(", "));
        write!(
            f,
            "{{\"name\": \"{name}\", \"packets_per_run\": {packets}, \
             \"ns_per_packet\": [{rounds}]}}"
        )
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => measure(""),
        [beginning] => measure(beginning),
        [name, count] => match (cases(|case| case == name).first_mut(), count.parse::<usize>()) {
            (Some(case), Ok(count)) => {
                (0..count).for_each(|_| (case.run)());
                ExitCode::SUCCESS
            }
            _ => ExitCode::from(2),
        },
        _ => ExitCode::from(2),
    }
}

/// Measures the cases whose names begin with `beginning`, and prints them.
fn measure(beginning: &str) -> ExitCode {
    let chosen = cases(|name| name.starts_with(beginning));
    let mut all: Vec<_> = chosen.into_iter().map(Measured::new).collect();
    (0..ROUNDS).for_each(|_| all.iter_mut().for_each(Measured::round));
    let mut out = std::io::stdout();
    if !all.is_empty() && all.iter().all(|measured| writeln!(out, "{measured}").is_ok()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
