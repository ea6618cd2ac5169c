//! The handle that Python holds: each method is one call on `io`.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tunneld_io::{Offload, Probe};

use crate::{EngineError, change, readings};

/// A data path over descriptors that Python opened. Thread-safe.
#[pyclass(frozen, module = "tunneld._native")]
pub(crate) struct Engine(tunneld_io::Engine);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, tun_fds, underlay, icmp_fd, icmp6_fd, split))]
    #[allow(clippy::needless_pass_by_value, reason = "PyO3 hands lists over by value")]
    fn new(
        tun_fds: Vec<RawFd>,
        underlay: Vec<Bound<'_, PyDict>>,
        icmp_fd: Option<RawFd>,
        icmp6_fd: Option<RawFd>,
        split: bool,
    ) -> PyResult<Self> {
        let underlay: Vec<_> = underlay.iter().map(change::sockets).collect::<PyResult<_>>()?;
        let made = tunneld_io::Engine::new(&tun_fds, &underlay, icmp_fd, icmp6_fd, split);
        made.map(Self).map_err(to_py)
    }

    /// An eventfd that is readable while `drain_events` has something.
    #[getter]
    fn event_fd(&self) -> RawFd {
        self.0.event_fd()
    }

    /// Starts the threads.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.start()).map_err(to_py)
    }

    /// Carries out a change, whole or not at all; returns the new generation.
    fn commit(&self, py: Python<'_>, change: &Bound<'_, PyDict>) -> PyResult<u64> {
        let change = change::from_py(change)?;
        py.detach(|| self.0.commit(change)).map_err(to_py)
    }

    /// The number of changes so far.
    #[getter]
    fn generation(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.0.generation())
    }

    /// Returns what the engine holds, sorted.
    fn digest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        readings::digest(py, &py.detach(|| self.0.digest()))
    }

    /// Returns a reading of all counters; they only rise.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        readings::counters(py, &self.0)
    }

    /// Returns the names of the adjacencies that were sent to, for use, since the last call.
    fn take_used(&self, py: Python<'_>) -> Vec<String> {
        py.detach(|| self.0.take_used())
    }

    /// Sends a probe by every socket that leads to the peer; returns how many answers to expect.
    fn probe(&self, destination: &str, size_bytes: u16, token: u64) -> PyResult<usize> {
        let Ok(destination) = destination.parse() else {
            return Err(EngineError::new_err(format!(
                "engine: probe to {destination:?}, expected an IP address"
            )));
        };
        self.0.probe(Probe { destination, size_bytes, token }).map_err(to_py)
    }

    /// Switches an offload on or off while packets move.
    fn set_offload(&self, py: Python<'_>, name: &str, enabled: bool) -> PyResult<()> {
        let Some(offload) = Offload::from_label(name) else {
            let known: Vec<_> = Offload::ALL.iter().map(|offload| offload.label()).collect();
            return Err(EngineError::new_err(format!(
                "engine: offload {name:?} is not known, expected one of {}",
                known.join(", ")
            )));
        };
        py.detach(|| self.0.set_offload(offload, enabled)).map_err(to_py)
    }

    /// Returns how every offload stands, by name.
    fn offloads(&self) -> BTreeMap<&'static str, String> {
        let states = self.0.offloads().into_iter();
        states.map(|(offload, state)| (offload.label(), state.to_string())).collect()
    }

    /// Returns what came up since the last call, oldest first.
    fn drain_events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.0.drain_events().iter().map(|event| readings::event(py, event)).collect()
    }

    /// Returns one entry per thread.
    fn heartbeat<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.0.heartbeat().iter().map(|beat| readings::heartbeat(py, beat)).collect()
    }

    /// Stops reading from the TUN and the underlay; the kernel's queues hold what comes.
    fn pause(&self, py: Python<'_>) {
        py.detach(|| self.0.pause());
    }

    /// Undoes `pause`.
    fn resume(&self, py: Python<'_>) {
        py.detach(|| self.0.resume());
    }

    /// Ends the threads and waits for them.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn to_py(error: tunneld_io::Error) -> PyErr {
    EngineError::new_err(error.to_string())
}
