//! What `tunneld bench` measures with: an AEAD alone, and traffic on sockets that Python opened.

use std::os::fd::RawFd;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tunneld_esp::cipher::Cipher;
use tunneld_esp::features::Features;
use tunneld_esp::lone;
use tunneld_esp::provider::Provider;
use tunneld_io::load::{self, TOKEN, Token};

/// Longer texts are no packets.
const LONGEST_TEXT: usize = 1 << 20;

/// One cipher of one provider over texts of one size.
#[pyclass(module = "tunneld._native", name = "Aead")]
pub(crate) struct Aead(lone::Lone);

#[pymethods]
impl Aead {
    #[new]
    #[pyo3(signature = (*, provider, cipher, size_bytes))]
    fn new(provider: &str, cipher: &str, size_bytes: usize) -> PyResult<Self> {
        let unknown = |what: &str, name: &str| {
            PyValueError::new_err(format!("bench: {what} {name:?} is none of those built in"))
        };
        let provider = Provider::named(provider).ok_or_else(|| unknown("provider", provider))?;
        let cipher = Cipher::named(cipher).ok_or_else(|| unknown("cipher", cipher))?;
        if !(1..=LONGEST_TEXT).contains(&size_bytes) {
            let msg = format!("bench: {size_bytes} bytes, expected 1 to {LONGEST_TEXT}");
            return Err(PyValueError::new_err(msg));
        }
        lone::Lone::new(provider, cipher, size_bytes).map(Self).map_err(refused)
    }

    /// Seals for about `duration_s`; returns texts sealed and the nanoseconds it took.
    fn seal(&mut self, py: Python<'_>, duration_s: f64) -> PyResult<(u64, u64)> {
        let enough = nanoseconds(duration_s)?;
        py.detach(|| {
            let (mut count, began) = (0, load::monotonic_ns());
            loop {
                self.0.seal()?;
                count += self.0.texts() as u64;
                let passed = load::monotonic_ns() - began;
                if passed >= enough {
                    return Ok((count, passed));
                }
            }
        })
        .map_err(refused)
    }

    /// Opens for about `duration_s`; the sealing between is not counted.
    fn open(&mut self, py: Python<'_>, duration_s: f64) -> PyResult<(u64, u64)> {
        let enough = nanoseconds(duration_s)?;
        py.detach(|| {
            let (mut count, mut passed) = (0, 0);
            while passed < enough {
                self.0.seal()?;
                let began = load::monotonic_ns();
                self.0.open()?;
                passed += load::monotonic_ns() - began;
                count += self.0.texts() as u64;
            }
            Ok((count, passed))
        })
        .map_err(refused)
    }
}

fn refused(why: lone::Unusable) -> PyErr {
    PyValueError::new_err(format!("bench: {why}"))
}

fn nanoseconds(seconds: f64) -> PyResult<u64> {
    Ok(u64::try_from(span(seconds)?.as_nanos()).unwrap_or(u64::MAX))
}

fn span(seconds: f64) -> PyResult<Duration> {
    // Nothing that is measured takes longer than a day.
    if (0.0..=86_400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(PyValueError::new_err(format!("bench: {seconds} s, expected 0 to 86400")))
}

fn token(bytes: &[u8]) -> PyResult<Token> {
    bytes.try_into().map_err(|_| {
        PyValueError::new_err(format!("bench: token of {} bytes, expected {TOKEN}", bytes.len()))
    })
}

/// What this processor has, and what is taken of it.
#[pyfunction]
pub(crate) fn aead_choices(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let features = Features::detected();
    let said = PyDict::new(py);
    said.set_item("providers", Provider::ALL.iter().map(|it| it.name()).collect::<Vec<_>>())?;
    said.set_item("ciphers", Cipher::ALL.iter().map(|it| it.name()).collect::<Vec<_>>())?;
    said.set_item(
        "auto",
        [Provider::fastest(features).name(), Cipher::preferred(features).name()],
    )?;
    Ok(said)
}

/// Sends datagrams on a connected socket.
#[pyfunction]
#[pyo3(signature = (fd, *, token, sizes, per_second, duration_s))]
pub(crate) fn load_send<'py>(
    py: Python<'py>,
    fd: RawFd,
    token: &[u8],
    sizes: Vec<usize>,
    per_second: Option<f64>,
    duration_s: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let (token, duration) = (self::token(token)?, span(duration_s)?);
    let sent = py.detach(|| load::send(fd, token, &sizes, per_second, duration))?;
    let said = PyDict::new(py);
    said.set_item("datagrams", sent.datagrams)?;
    said.set_item("bytes", sent.bytes)?;
    said.set_item("refused", sent.refused)?;
    said.set_item("seconds", sent.seconds)?;
    Ok(said)
}

/// Counts datagrams on a connected socket.
#[pyfunction]
#[pyo3(signature = (fd, *, token, timeout_s, silence_s, longest_s))]
pub(crate) fn load_receive<'py>(
    py: Python<'py>,
    fd: RawFd,
    token: &[u8],
    timeout_s: f64,
    silence_s: f64,
    longest_s: f64,
) -> PyResult<Bound<'py, PyDict>> {
    let token = self::token(token)?;
    let (timeout, silence, longest) = (span(timeout_s)?, span(silence_s)?, span(longest_s)?);
    let seen = py.detach(|| load::receive(fd, token, timeout, silence, longest))?;
    let said = PyDict::new(py);
    said.set_item("datagrams", seen.datagrams)?;
    said.set_item("bytes", seen.bytes)?;
    said.set_item("late", seen.late)?;
    said.set_item("foreign", seen.foreign)?;
    said.set_item("seconds", seen.seconds)?;
    Ok(said)
}

/// Echoes datagrams on a connected socket; returns how many.
#[pyfunction]
#[pyo3(signature = (fd, *, token, silence_s, longest_s))]
pub(crate) fn load_echo(
    py: Python<'_>,
    fd: RawFd,
    token: &[u8],
    silence_s: f64,
    longest_s: f64,
) -> PyResult<u64> {
    let (token, silence, longest) = (self::token(token)?, span(silence_s)?, span(longest_s)?);
    Ok(py.detach(|| load::echo(fd, token, silence, longest))?)
}

/// Asks on a connected socket; returns how often, and the nanoseconds of each answer.
#[pyfunction]
#[pyo3(signature = (fd, *, token, count, interval_s, patience_s, duration_s))]
pub(crate) fn load_round_trips(
    py: Python<'_>,
    fd: RawFd,
    token: &[u8],
    count: u64,
    interval_s: f64,
    patience_s: f64,
    duration_s: f64,
) -> PyResult<(u64, Vec<u64>)> {
    let token = self::token(token)?;
    let (interval, patience, duration) = (span(interval_s)?, span(patience_s)?, span(duration_s)?);
    let seen = py.detach(|| load::round_trips(fd, token, count, interval, patience, duration))?;
    Ok((seen.sent, seen.nanoseconds))
}

/// Writes to connected TCP sockets; returns the bytes of each and the seconds it took.
#[pyfunction]
#[pyo3(signature = (fds, *, duration_s))]
pub(crate) fn load_send_streams(
    py: Python<'_>,
    fds: Vec<RawFd>,
    duration_s: f64,
) -> PyResult<(Vec<u64>, f64)> {
    let duration = span(duration_s)?;
    let seen = py.detach(|| load::send_streams(&fds, duration))?;
    Ok((seen.bytes, seen.seconds))
}

/// Reads from connected TCP sockets to their ends; returns the bytes of each and the seconds.
#[pyfunction]
#[pyo3(signature = (fds, *, longest_s))]
pub(crate) fn load_receive_streams(
    py: Python<'_>,
    fds: Vec<RawFd>,
    longest_s: f64,
) -> PyResult<(Vec<u64>, f64)> {
    let longest = span(longest_s)?;
    let seen = py.detach(|| load::receive_streams(&fds, longest))?;
    Ok((seen.bytes, seen.seconds))
}
