//! `tunneld-fuzz TARGET CORPUS SECONDS`: random bytes through what reads foreign bytes.
//!
//! Starts from the files of the folder CORPUS and changes them at random. An input with an
//! outcome not seen before (other drop reasons, other shapes of what comes out) is changed
//! further, and written to the folder with `--keep`. An input that breaks a rule is written
//! there in any case, and ends the program with 1; so it is run first for ever after.

// A program for the command line: clock and files are its business.
#![allow(clippy::disallowed_methods)]

mod esp;
mod handshake;
mod mutate;
mod rules;
mod sealed;
mod targets;

use std::collections::HashSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mutate::Mutator;
use targets::Target;

/// Most inputs that are changed further.
const MAX_INPUTS: usize = 4_096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (keep, arguments): (Vec<_>, Vec<_>) =
        arguments.into_iter().partition(|argument| argument == "--keep");
    let [target, corpus, seconds] = &arguments[..] else { return usage() };
    let (Some(target), Ok(seconds)) = (Target::named(target), seconds.parse()) else {
        return usage();
    };
    match run(target, Path::new(corpus), Duration::from_secs(seconds), !keep.is_empty()) {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tunneld-fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    let text =
        "usage: tunneld-fuzz datagrams|vnet|vxlan|esp|sealed|handshake CORPUS SECONDS [--keep]";
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(2)
}

fn run(mut target: Target, corpus: &Path, time: Duration, keep: bool) -> Result<String, String> {
    let mut inputs = read(corpus)?;
    let kept = inputs.len();
    let mut seen = HashSet::new();
    for input in &inputs {
        seen.insert(attempt(&mut target, input, corpus)?);
    }
    let mut mutator = Mutator::new(Instant::now().elapsed().as_nanos() as u64 ^ 0x5eed);
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        for _ in 0..1_000 {
            let input = mutator.change(&inputs);
            count += 1;
            if seen.insert(attempt(&mut target, &input, corpus)?) && inputs.len() < MAX_INPUTS {
                if keep {
                    write(corpus, "kept", &input)?;
                }
                inputs.push(input);
            }
        }
    }
    Ok(format!(
        "{count} inputs, {kept} of them kept ones to start from, {} outcomes, no rule broken",
        seen.len()
    ))
}

/// Tries an input; returns a number for what became of it.
fn attempt(target: &mut Target, input: &[u8], corpus: &Path) -> Result<u64, String> {
    tried(target, input).or_else(|fault| {
        let name = write(corpus, fault.kind, input)?;
        // It should not need the inputs before it; if it does, that is worth knowing.
        let is_alone = target.anew().is_some_and(|mut anew| tried(&mut anew, input).is_err());
        let after = if is_alone { "" } else { ", but only after the inputs before it" };
        Err(format!("{name} {}{after}", fault.what))
    })
}

/// What is wrong with an input.
struct Fault {
    kind: &'static str,
    what: String,
}

fn tried(target: &mut Target, input: &[u8]) -> Result<u64, Fault> {
    match catch_unwind(AssertUnwindSafe(|| target.run(input))) {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(rule)) => Err(Fault { kind: "broken", what: format!("breaks a rule: {rule}") }),
        Err(_) => Err(Fault { kind: "panic", what: "panics".to_owned() }),
    }
}

fn read(corpus: &Path) -> Result<Vec<Vec<u8>>, String> {
    let fail = |error: std::io::Error| format!("cannot read {}: {error}", corpus.display());
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(corpus).map_err(fail)? {
        inputs.push(std::fs::read(entry.map_err(fail)?.path()).map_err(fail)?);
    }
    if inputs.is_empty() {
        return Err(format!("no files in {}, expected some to start from", corpus.display()));
    }
    // The order of a folder is anyone's guess; runs should be alike.
    inputs.sort();
    Ok(inputs)
}

/// Writes an input under a name made of its bytes; returns the name.
fn write(corpus: &Path, kind: &str, input: &[u8]) -> Result<String, String> {
    let path = corpus.join(format!("{kind}-{:016x}.bin", mutate::digest(input)));
    std::fs::write(&path, input)
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(path.display().to_string())
}
