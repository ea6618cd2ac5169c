//! What an engine is to encrypt by, as Python writes it. Secrets come in their handles.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tunneld_core::prefix::Prefix;
use tunneld_esp::cipher::Cipher;
use tunneld_esp::features::Features;
use tunneld_esp::provider::Provider;
use tunneld_handshake::cipher::Ciphers;
use tunneld_handshake::payload::Claim;
use tunneld_io::Encryption;

use std::net::IpAddr;

use crate::EngineError;
use crate::secrets::{Identity, Psks};

/// What stands for the best choice on this processor.
const AUTO: &str = "auto";

const KEYS: [&str; 8] =
    ["identity", "psks", "network", "cipher", "provider", "instance", "claim", "keepalive_s"];

/// Reads what to encrypt by.
///
/// # Errors
///
/// `EngineError` names the first item that cannot be.
pub(crate) fn from_py(dict: &Bound<'_, PyDict>) -> PyResult<Encryption> {
    for key in dict.keys() {
        let key: String = key.extract()?;
        if !KEYS.contains(&key.as_str()) {
            return Err(refused(format_args!("unknown key {key:?}")));
        }
    }
    let features = Features::detected();
    let identity: PyRef<'_, Identity> = required(dict, "identity")?.extract()?;
    let psks: Option<PyRef<'_, Psks>> = required(dict, "psks")?.extract()?;
    let cipher: String = required(dict, "cipher")?.extract()?;
    let provider: String = required(dict, "provider")?.extract()?;
    let instance: Vec<u8> = required(dict, "instance")?.extract()?;
    let keepalive_s: Option<f64> = required(dict, "keepalive_s")?.extract()?;
    Ok(Encryption {
        identity: identity.0.clone(),
        psks: psks.map(|psks| psks.0.clone()).unwrap_or_default(),
        network: required(dict, "network")?.extract()?,
        ciphers: match (cipher.as_str(), Cipher::named(&cipher)) {
            (AUTO, _) => Ciphers::Auto { has_aes: features.aes },
            (_, Some(cipher)) => Ciphers::Only(cipher),
            _ => return Err(unknown("cipher", &cipher, Cipher::ALL.iter().map(|one| one.name()))),
        },
        provider: match (provider.as_str(), Provider::named(&provider)) {
            (AUTO, _) => Provider::fastest(features),
            (_, Some(provider)) => provider,
            _ => {
                let known = Provider::ALL.iter().map(|one| one.name());
                return Err(unknown("provider", &provider, known));
            }
        },
        instance: instance.as_slice().try_into().map_err(|_| {
            refused(format_args!("instance of {} bytes, expected 8", instance.len()))
        })?,
        claim: claim(&required(dict, "claim")?.extract::<Vec<String>>()?)?,
        keepalive_ns: keepalive_s.map(keepalive_ns).transpose()?,
    })
}

/// Reads the subnets of a host.
///
/// # Errors
///
/// `EngineError` where one is none, or there are two of a family.
pub(crate) fn claim(texts: &[String]) -> PyResult<Claim> {
    let mut claim = Claim::default();
    for text in texts {
        let expected = "at most one subnet of each family, like 10.1.2.0/24";
        let bad = || refused(format_args!("claim {text}, expected {expected}"));
        let subnet: Prefix = text.parse().map_err(|_| bad())?;
        let before = match subnet.address() {
            IpAddr::V4(address) => claim.v4.replace((address, subnet.length())).is_some(),
            IpAddr::V6(address) => claim.v6.replace((address, subnet.length())).is_some(),
        };
        if before {
            return Err(bad());
        }
    }
    Ok(claim)
}

fn keepalive_ns(seconds: f64) -> PyResult<u64> {
    // Longer than a day keeps nothing alive.
    if (1.0..=86_400.0).contains(&seconds) {
        return Ok((seconds * 1e9) as u64);
    }
    Err(refused(format_args!("keepalive_s {seconds}, expected 1 to 86400 seconds or None")))
}

fn required<'py>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<Bound<'py, PyAny>> {
    dict.get_item(key)?.ok_or_else(|| refused(format_args!("key {key:?} is missing")))
}

fn unknown(what: &str, value: &str, known: impl Iterator<Item = &'static str>) -> PyErr {
    let known: Vec<_> = known.collect();
    refused(format_args!("{what} {value:?}, expected {AUTO}, {}", known.join(", ")))
}

fn refused(what: std::fmt::Arguments<'_>) -> PyErr {
    EngineError::new_err(format!("engine: encryption refused: {what}"))
}
