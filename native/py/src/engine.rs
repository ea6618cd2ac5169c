//! The handle that Python holds: each method is one call on `io`.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tunneld_io::{Offload, Probe};

use crate::secrets::Psks;
use crate::{EngineError, change, encryption, readings, security};

/// A data path over descriptors that Python opened. Thread-safe.
#[pyclass(frozen, module = "tunneld._native")]
pub(crate) struct Engine(tunneld_io::Engine);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, tun_fds, underlay, icmp_fd, icmp6_fd, split, encryption = None))]
    #[allow(clippy::needless_pass_by_value, reason = "PyO3 hands lists over by value")]
    fn new(
        tun_fds: Vec<RawFd>,
        underlay: Vec<Bound<'_, PyDict>>,
        icmp_fd: Option<RawFd>,
        icmp6_fd: Option<RawFd>,
        split: bool,
        encryption: Option<Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let underlay: Vec<_> = underlay.iter().map(change::sockets).collect::<PyResult<_>>()?;
        let encryption = encryption.as_ref().map(encryption::from_py).transpose()?;
        let made =
            tunneld_io::Engine::new(&tun_fds, &underlay, icmp_fd, icmp6_fd, split, encryption);
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
        let (change, identities) = change::from_py(change)?;
        py.detach(|| self.0.commit(change, identities)).map_err(to_py)
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

    /// Changes the PSKs; new keys are made with all peers that have some.
    fn set_psks(&self, py: Python<'_>, psks: Option<&Psks>) -> PyResult<()> {
        let psks = psks.map_or(&[][..], |psks| &psks.0);
        py.detach(|| self.0.set_psks(psks)).map_err(to_py)
    }

    /// Says which subnets are this host's; if that is news, all peers with keys are told.
    fn set_claim(&self, py: Python<'_>, claim: Vec<String>) -> PyResult<()> {
        let claim = encryption::claim(&claim)?;
        py.detach(|| self.0.set_claim(claim)).map_err(to_py)
    }

    /// Makes new keys with all peers that have some, within 2 s.
    fn renew(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.renew()).map_err(to_py)
    }

    /// Ends all keys and makes new ones: memory may have been copied.
    fn forget_keys(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.forget_keys()).map_err(to_py)
    }

    /// Shakes hands with an identity whether or not there is a packet for it.
    fn connect(&self, py: Python<'_>, key: &str) -> PyResult<()> {
        let key = change::public_key(key)?;
        py.detach(|| self.0.connect(&key)).map_err(to_py)
    }

    /// Returns how each identity that was put stands, sorted by key.
    fn security<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let all = py.detach(|| self.0.security()).map_err(to_py)?;
        let provider = self.0.security_self().map_err(to_py)?.provider;
        all.iter().map(|one| security::of_peer(py, one, provider)).collect()
    }

    /// Returns what this host is.
    fn security_self<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        security::own(py, &self.0.security_self().map_err(to_py)?)
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
