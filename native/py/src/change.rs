//! A change as Python writes it, read into the one that `core` carries out.
//!
//! So are the sockets of a worker. Addresses, prefixes and numbers are parsed here; an item that does not parse is named with
//! its value. A key that is not known is refused, so that a slip does not pass for "unchanged".

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile, Vtep};
use tunneld_core::fib::{Settings, SourceCheck};
use tunneld_core::prefix::Prefix;
use tunneld_core::transaction::{Change, LOCAL, TargetName};
use tunneld_handshake::key::PublicKey;
use tunneld_io::{Identities, Trusted, UnderlaySockets};
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::vxlan::Vni;

use crate::EngineError;

/// Reads a change, and whom it says to trust.
///
/// # Errors
///
/// `EngineError` names the first item that does not parse.
pub(crate) fn from_py(dict: &Bound<'_, PyDict>) -> PyResult<(Change, Identities)> {
    let (mut change, mut identities) = (Change::default(), Identities::default());
    for (key, value) in dict {
        match key.extract::<String>()?.as_str() {
            "settings" => change.settings = Some(settings(value.cast()?)?),
            "put_adjacencies" => change.put_adjacencies = list(&value, adjacency)?,
            "drop_adjacencies" => change.drop_adjacencies = value.extract()?,
            "put_entries" => change.put_entries = list(&value, entry)?,
            "drop_entries" => {
                let texts: Vec<String> = value.extract()?;
                change.drop_entries =
                    texts.iter().map(|text| prefix(text)).collect::<PyResult<_>>()?;
            }
            "put_identities" => identities.put = list(&value, identity)?,
            "drop_identities" => {
                let texts: Vec<String> = value.extract()?;
                identities.drop =
                    texts.iter().map(|text| public_key(text)).collect::<PyResult<_>>()?;
            }
            other => {
                return Err(refused(format_args!("unknown key {other:?} in the change")));
            }
        }
    }
    Ok((change, identities))
}

fn identity(dict: &Bound<'_, PyDict>) -> PyResult<(PublicKey, Trusted)> {
    let text: String = required(dict, "key")?.extract()?;
    let (key, item) = (public_key(&text)?, Item { name: format!("identity {text}"), dict });
    let address: Option<IpAddr> = item.text("endpoint", "an IP address or None")?;
    let port: i64 = item.field("port")?;
    let number = u16::try_from(port).ok().filter(|number| *number > 0);
    let port = number.ok_or_else(|| item.bad("port", port, "1 to 65535"))?;
    let instance: Option<Instance> = item.text("instance", "16 hexadecimal digits or None")?;
    Ok((key, Trusted { address, port, instance: instance.map(|Instance(bytes)| bytes) }))
}

/// An instance as records have it.
struct Instance([u8; 8]);

impl FromStr for Instance {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex).ok_or(())?;
        Ok(Self(number.to_be_bytes()))
    }
}

/// Reads a public key.
///
/// # Errors
///
/// `EngineError` where it is none.
pub(crate) fn public_key(text: &str) -> PyResult<PublicKey> {
    text.parse().map_err(|error| refused(format_args!("identity {text:?}: {error}")))
}

fn settings(dict: &Bound<'_, PyDict>) -> PyResult<Settings> {
    let item = Item { name: "settings".to_owned(), dict };
    let check: String = item.field("source_check")?;
    Ok(Settings {
        source_check: SourceCheck::from_label(&check)
            .ok_or_else(|| item.bad("source_check", &check, "strict, loose or off"))?,
        device_mtu_bytes: item.mtu("device_mtu_bytes")?,
        icmp_source: item.text("icmp_source", "an IPv4 address or None")?,
        icmp_source_v6: item.text("icmp_source_v6", "an IPv6 address or None")?,
        vtep: item.dict("vtep")?.as_ref().map(vtep).transpose()?,
    })
}

fn vtep(dict: &Bound<'_, PyDict>) -> PyResult<Vtep> {
    let item = Item { name: "settings: vtep".to_owned(), dict };
    let vni: i64 = item.field("vni")?;
    let number = u32::try_from(vni).ok().and_then(Vni::new);
    Ok(Vtep {
        vni: number.ok_or_else(|| item.bad("vni", vni, "0 to 16777215"))?,
        gbp: item.field("gbp")?,
        mac: item.mac("mac")?,
        mac_v6: item.mac("mac_v6")?,
    })
}

/// Reads the sockets of a worker.
///
/// # Errors
///
/// `EngineError` where a family is missing.
pub(crate) fn sockets(dict: &Bound<'_, PyDict>) -> PyResult<UnderlaySockets> {
    let numbers = |key| required(dict, key)?.extract();
    let some = |key| dict.get_item(key)?.map_or(Ok(Vec::new()), |numbers| numbers.extract());
    Ok(UnderlaySockets {
        ipv4: numbers("ipv4")?,
        ipv6: numbers("ipv6")?,
        ipv4_sidings: some("ipv4_sidings")?,
        ipv6_sidings: some("ipv6_sidings")?,
        esp_ipv4: some("esp_ipv4")?,
        esp_ipv6: some("esp_ipv6")?,
        esp_ipv4_sidings: some("esp_ipv4_sidings")?,
        esp_ipv6_sidings: some("esp_ipv6_sidings")?,
    })
}

fn adjacency(dict: &Bound<'_, PyDict>) -> PyResult<(String, Parameters)> {
    let name: String = required(dict, "name")?.extract()?;
    let item = Item { name: format!("adjacency {name}"), dict };
    let label: String = item.field("encapsulation")?;
    let mut of_peer = item.field("of_peer")?;
    let read = Meanwhile::take(&label, &mut of_peer)
        .and_then(|meanwhile| Ok((meanwhile, Encapsulation::read(&label, of_peer)?)));
    let (meanwhile, encapsulation) =
        read.map_err(|fault| item.bad(&fault.name, &fault.value, fault.expected))?;
    let port: i64 = item.field("port")?;
    let port = u16::try_from(port).map_err(|_| item.bad("port", port, "1 to 65535"))?;
    let parameters = Parameters {
        encapsulation,
        endpoint: SocketAddr::new(item.address("endpoint")?, port),
        mtu_bytes: item.mtu("mtu_bytes")?,
        outer_df: item.outer_df()?,
        meanwhile,
    };
    Ok((name, parameters))
}

fn entry(dict: &Bound<'_, PyDict>) -> PyResult<(Prefix, TargetName)> {
    let text: String = required(dict, "prefix")?.extract()?;
    let target: String = required(dict, "target")?.extract()?;
    let target = if target == LOCAL { TargetName::Local } else { TargetName::Adjacency(target) };
    Ok((prefix(&text)?, target))
}

fn prefix(text: &str) -> PyResult<Prefix> {
    text.parse().map_err(|error| {
        let expected = "a prefix like 10.1.2.0/24 or fd00:1:2::/64";
        refused(format_args!("entry {text}: {error}, expected {expected}"))
    })
}

fn list<T>(
    value: &Bound<'_, PyAny>,
    read: impl Fn(&Bound<'_, PyDict>) -> PyResult<T>,
) -> PyResult<Vec<T>> {
    value.cast::<PyList>()?.iter().map(|item| read(item.cast()?)).collect()
}

/// A part of the change, with the name it has in messages.
struct Item<'a, 'py> {
    name: String,
    dict: &'a Bound<'py, PyDict>,
}

impl<'py> Item<'_, 'py> {
    fn field<T: for<'a> FromPyObject<'a, 'py, Error = PyErr>>(&self, key: &str) -> PyResult<T> {
        required(self.dict, key)?.extract()
    }

    fn mtu(&self, key: &str) -> PyResult<u16> {
        let mtu: i64 = self.field(key)?;
        u16::try_from(mtu).map_err(|_| self.bad(key, mtu, "68 to 65535 bytes"))
    }

    /// Reads what may be left out: the kernel's word holds then.
    fn outer_df(&self) -> PyResult<OuterDf> {
        let Some(value) = self.dict.get_item("outer_df")? else { return Ok(OuterDf::Kernel) };
        let label: String = value.extract()?;
        let known = OuterDf::from_label(&label);
        known.ok_or_else(|| self.bad("outer_df", label, "kernel, probed or clear"))
    }

    fn address(&self, key: &str) -> PyResult<IpAddr> {
        let text: String = self.field(key)?;
        text.parse().map_err(|_| self.bad(key, &text, "an IP address"))
    }

    fn mac(&self, key: &str) -> PyResult<Option<MacAddress>> {
        self.text(key, MacAddress::FORM)
    }

    /// Reads what may be None, or else is text.
    fn text<T: FromStr>(&self, key: &str, expected: &str) -> PyResult<Option<T>> {
        let text: Option<String> = required(self.dict, key)?.extract()?;
        let read = |text: String| text.parse().map_err(|_| self.bad(key, &text, expected));
        text.map(read).transpose()
    }

    fn dict(&self, key: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        let value = required(self.dict, key)?;
        if value.is_none() { Ok(None) } else { Ok(Some(value.cast_into()?)) }
    }

    fn bad(&self, key: &str, value: impl Display, expected: &str) -> PyErr {
        refused(format_args!("{}: {key} {value}, expected {expected}", self.name))
    }
}

fn required<'py>(dict: &Bound<'py, PyDict>, key: &str) -> PyResult<Bound<'py, PyAny>> {
    dict.get_item(key)?.ok_or_else(|| refused(format_args!("key {key:?} is missing in {dict}")))
}

fn refused(what: impl Display) -> PyErr {
    EngineError::new_err(format!("engine change refused: {what}"))
}
