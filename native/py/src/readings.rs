//! What the engine reports, as plain Python values. Keys as in `tunneld/_native.pyi`.

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList};
use tunneld_core::counters::AdjacencyReading;
use tunneld_core::encapsulation::Vtep;
use tunneld_handshake::key::PublicKey;
use tunneld_io::{Answer, Duty, Engine, Event, Heartbeat, Snapshot, Trusted};

use crate::security;

pub(crate) fn digest<'py>(py: Python<'py>, snapshot: &Snapshot) -> PyResult<Bound<'py, PyDict>> {
    let adjacencies = PyList::empty(py);
    for (name, parameters) in &snapshot.adjacencies {
        let item = PyDict::new(py);
        item.set_item("name", name)?;
        item.set_item("encapsulation", parameters.encapsulation.label())?;
        item.set_item("endpoint", parameters.endpoint.ip().to_string())?;
        item.set_item("port", parameters.endpoint.port())?;
        item.set_item("mtu_bytes", parameters.mtu_bytes)?;
        item.set_item("outer_df", parameters.outer_df.label())?;
        let mut of_peer = parameters.encapsulation.of_peer();
        of_peer.extend(parameters.meanwhile.of_peer());
        item.set_item("of_peer", of_peer.into_py_dict(py)?)?;
        adjacencies.append(item)?;
    }
    let entries = PyList::empty(py);
    for (prefix, target) in &snapshot.entries {
        let item = PyDict::new(py);
        item.set_item("prefix", prefix.to_string())?;
        item.set_item("target", target)?;
        entries.append(item)?;
    }
    let settings = snapshot.settings.map(|settings| {
        let item = PyDict::new(py);
        item.set_item("source_check", settings.source_check.label())?;
        item.set_item("device_mtu_bytes", settings.device_mtu_bytes)?;
        item.set_item("icmp_source", settings.icmp_source.map(|source| source.to_string()))?;
        let source = settings.icmp_source_v6.map(|source| source.to_string());
        item.set_item("icmp_source_v6", source)?;
        item.set_item("vtep", settings.vtep.map(|settings| vtep(py, settings)).transpose()?)?;
        PyResult::Ok(item)
    });
    let digest = PyDict::new(py);
    digest.set_item("generation", snapshot.generation)?;
    digest.set_item("settings", settings.transpose()?)?;
    digest.set_item("adjacencies", adjacencies)?;
    digest.set_item("entries", entries)?;
    let identities = snapshot.identities.iter().map(|(key, trusted)| identity(py, key, trusted));
    digest.set_item("identities", identities.collect::<PyResult<Vec<_>>>()?)?;
    Ok(digest)
}

fn identity<'py>(
    py: Python<'py>,
    key: &PublicKey,
    trusted: &Trusted,
) -> PyResult<Bound<'py, PyDict>> {
    let item = PyDict::new(py);
    item.set_item("key", key.to_string())?;
    item.set_item("endpoint", trusted.address.map(|address| address.to_string()))?;
    item.set_item("port", trusted.port)?;
    item.set_item("instance", trusted.instance.map(security::instance))?;
    Ok(item)
}

fn vtep(py: Python<'_>, vtep: Vtep) -> PyResult<Bound<'_, PyDict>> {
    let item = PyDict::new(py);
    item.set_item("vni", vtep.vni.number())?;
    item.set_item("gbp", vtep.gbp)?;
    item.set_item("mac", vtep.mac.map(|mac| mac.to_string()))?;
    item.set_item("mac_v6", vtep.mac_v6.map(|mac| mac.to_string()))?;
    Ok(item)
}

pub(crate) fn counters<'py>(py: Python<'py>, engine: &Engine) -> PyResult<Bound<'py, PyDict>> {
    let adjacencies = PyDict::new(py);
    for (name, reading) in py.detach(|| engine.adjacency_counters()) {
        adjacencies.set_item(name, adjacency(py, &reading)?)?;
    }
    let drops = PyDict::new(py);
    for (reason, count) in engine.drops() {
        drops.set_item(reason.label(), count)?;
    }
    let workers = PyList::empty(py);
    for reading in engine.worker_counters() {
        let item = PyDict::new(py);
        item.set_item("worker", reading.worker)?;
        item.set_item("direction", reading.direction.label())?;
        item.set_item("batches", reading.batches)?;
        item.set_item("packets", reading.packets)?;
        item.set_item("bytes", reading.bytes)?;
        workers.append(item)?;
    }
    let (sent, suppressed) = engine.icmp();
    let counters = PyDict::new(py);
    counters.set_item("adjacencies", adjacencies)?;
    counters.set_item("drops", drops)?;
    counters.set_item("workers", workers)?;
    counters.set_item("icmp_sent", sent)?;
    counters.set_item("icmp_suppressed", suppressed)?;
    counters.set_item("receive_drops", engine.receive_drops())?;
    Ok(counters)
}

fn adjacency<'py>(py: Python<'py>, reading: &AdjacencyReading) -> PyResult<Bound<'py, PyDict>> {
    let item = PyDict::new(py);
    item.set_item("tx_packets", reading.tx_packets)?;
    item.set_item("tx_bytes", reading.tx_bytes)?;
    item.set_item("rx_packets", reading.rx_packets)?;
    item.set_item("rx_bytes", reading.rx_bytes)?;
    item.set_item("last_rx", reading.last_rx_ns.map(|ns| ns as f64 / 1e9))?;
    Ok(item)
}

/// What an event says beside its kind; the rest is None.
const FIELDS: [&str; 11] = [
    "adjacency",
    "size_bytes",
    "path_mtu_bytes",
    "token",
    "path",
    "key",
    "claim",
    "endpoint",
    "instance",
    "packets",
    "detail",
];

pub(crate) fn event<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyDict>> {
    let item = PyDict::new(py);
    FIELDS.iter().try_for_each(|field| item.set_item(field, py.None()))?;
    match event {
        Event::PathMtu { adjacency, size_bytes, path_mtu_bytes } => {
            item.set_item("kind", "path_mtu")?;
            item.set_item("adjacency", &**adjacency)?;
            item.set_item("size_bytes", size_bytes)?;
            item.set_item("path_mtu_bytes", path_mtu_bytes)?;
            item.set_item("detail", "the underlay refused a datagram for its size")?;
        }
        Event::ProbeAnswered(Answer { token, path }) => {
            item.set_item("kind", "probe_answered")?;
            item.set_item("token", token)?;
            item.set_item("path", path)?;
            item.set_item("detail", "a peer answered a probe")?;
        }
        Event::OffloadLost { offload, errno, adjacency } => {
            item.set_item("kind", "offload_lost")?;
            item.set_item("adjacency", adjacency.as_deref())?;
            item.set_item("detail", format!("{}: {errno}", offload.label()))?;
        }
        Event::OffloadBack { offload } => {
            item.set_item("kind", "offload_back")?;
            item.set_item("detail", offload.label())?;
        }
        Event::KeysConfirmed { key, claim, endpoint, instance } => {
            item.set_item("kind", "keys_confirmed")?;
            item.set_item("key", key.to_string())?;
            item.set_item("claim", security::claim(claim))?;
            item.set_item("endpoint", endpoint.to_string())?;
            item.set_item("instance", security::instance(*instance))?;
            item.set_item("detail", "keys were agreed")?;
        }
        Event::KeysLost { key } => {
            item.set_item("kind", "keys_lost")?;
            item.set_item("key", key.to_string())?;
            item.set_item("detail", "there are no keys any more")?;
        }
        Event::HandshakeGivenUp { key, packets } => {
            item.set_item("kind", "handshake_given_up")?;
            item.set_item("key", key.to_string())?;
            item.set_item("packets", packets)?;
            item.set_item("detail", "the peer did not answer")?;
        }
        Event::WorkerEnded { worker, duty, reason } => {
            let thread = match duty {
                Duty::Both => "thread".to_owned(),
                Duty::Outbound | Duty::Inbound | Duty::Keying => {
                    format!("{} thread", duty.label())
                }
            };
            item.set_item("kind", "worker_ended")?;
            item.set_item("detail", format!("{thread} of worker {worker}: {reason}"))?;
        }
    }
    Ok(item)
}

pub(crate) fn heartbeat<'py>(py: Python<'py>, beat: &Heartbeat) -> PyResult<Bound<'py, PyDict>> {
    let item = PyDict::new(py);
    item.set_item("worker", beat.worker)?;
    item.set_item("duty", beat.duty.label())?;
    item.set_item("thread_id", beat.thread_id)?;
    item.set_item("alive", beat.alive)?;
    item.set_item("beats", beat.beats)?;
    Ok(item)
}
