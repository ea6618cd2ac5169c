//! How an engine stands with keys, as plain Python values. Nothing secret is among them.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tunneld_core::sad::Claim;
use tunneld_esp::provider::Provider;
use tunneld_io::{OwnSecurity, Security};

/// Returns the subnets of a claim as texts.
pub(crate) fn claim(claim: &Claim) -> Vec<String> {
    [claim.ipv4, claim.ipv6].iter().flatten().map(ToString::to_string).collect()
}

/// Returns an instance as records have it, 16 hexadecimal digits.
pub(crate) fn instance(bytes: [u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(bytes))
}

pub(crate) fn of_peer<'py>(
    py: Python<'py>,
    one: &Security,
    provider: Provider,
) -> PyResult<Bound<'py, PyDict>> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let item = PyDict::new(py);
    item.set_item("key", one.key.to_string())?;
    item.set_item("state", one.state.label())?;
    item.set_item("cipher", one.cipher.map(|cipher| cipher.name()))?;
    item.set_item("provider", one.cipher.map(|_| provider.name()))?;
    item.set_item("age_s", one.age_ns.map(seconds))?;
    item.set_item("endpoint", one.endpoint.map(|endpoint| endpoint.to_string()))?;
    item.set_item("last_handshake_s", one.last_handshake_ns.map(seconds))?;
    item.set_item("claim", claim(&one.claim))?;
    item.set_item("instance", one.instance.map(instance))?;
    item.set_item("sets", one.sets)?;
    item.set_item("waiting_packets", one.waiting_packets)?;
    item.set_item("last_error", &one.last_error)?;
    Ok(item)
}

pub(crate) fn own<'py>(py: Python<'py>, own: &OwnSecurity) -> PyResult<Bound<'py, PyDict>> {
    let item = PyDict::new(py);
    item.set_item("public_key", own.public_key.to_string())?;
    item.set_item("cipher", own.cipher.name())?;
    item.set_item("provider", own.provider.name())?;
    item.set_item("port", own.port)?;
    Ok(item)
}
