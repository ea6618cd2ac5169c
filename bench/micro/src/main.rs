//! `tunneld-micro`: what the native core costs per packet, without any kernel in between.
//!
//! Without arguments it prints one JSON object per case, with the nanoseconds per packet (the
//! best of several rounds). With a case and a number of rounds it runs just that and prints
//! nothing, for a program that counts instructions.

// It measures: the clock and the command line are what it is for.
#![allow(clippy::disallowed_methods)]

mod cases;
mod packets;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use cases::{Case, cases};

const ROUNDS: usize = 15;
const ROUND_NS: u128 = 20_000_000;

/// Returns the nanoseconds per packet in the best of the rounds.
fn measure(case: &mut Case) -> f64 {
    let mut repeat = 1;
    loop {
        let start = Instant::now();
        (0..repeat).for_each(|_| (case.run)());
        if start.elapsed().as_nanos() >= ROUND_NS {
            break;
        }
        repeat *= 2;
    }
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        (0..repeat).for_each(|_| (case.run)());
        let ns = start.elapsed().as_nanos() as f64 / repeat as f64;
        best = best.min(ns / case.packets as f64);
    }
    best
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    match &arguments[..] {
        [] => {
            for mut case in cases("") {
                let (name, packets, ns) = (case.name.clone(), case.packets, measure(&mut case));
                let line = format!(
                    "{{\"name\": \"{name}\", \"packets_per_run\": {packets}, \
                     \"ns_per_packet\": {ns:.2}}}"
                );
                if writeln!(out, "{line}").is_err() {
                    return ExitCode::FAILURE;
                }
            }
            ExitCode::SUCCESS
        }
        [name, count] => match (cases(name).first_mut(), count.parse::<usize>()) {
            (Some(case), Ok(count)) => {
                (0..count).for_each(|_| (case.run)());
                ExitCode::SUCCESS
            }
            _ => ExitCode::from(2),
        },
        _ => ExitCode::from(2),
    }
}
