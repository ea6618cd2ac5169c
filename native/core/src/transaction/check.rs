//! Whether a change is good as a whole. Reads the tables, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tunneld_wire::ethernet::MacAddress;

use super::{Change, Error, LOCAL, Tables, TargetName};
use crate::adjacency_id::AdjacencyId;
use crate::encapsulation::{Encapsulation, Meanwhile};

/// Smallest MTU an IPv4 link may have (RFC 791 §3.2).
const MIN_MTU_BYTES: u16 = 68;
/// Smallest MTU an IPv6 link may have (RFC 8200 §5).
const MIN_MTU_V6_BYTES: u16 = 1_280;

/// Returns the first bad item of `change`.
pub(super) fn check(tables: &Tables, change: &Change) -> Result<(), Error> {
    if let Some(settings) = &change.settings {
        let item = || "settings".to_owned();
        let min_bytes =
            if settings.icmp_source_v6.is_some() { MIN_MTU_V6_BYTES } else { MIN_MTU_BYTES };
        check_mtu(item, settings.device_mtu_bytes, min_bytes)?;
        let sources = [
            ("icmp_source", settings.icmp_source.map(IpAddr::from)),
            ("icmp_source_v6", settings.icmp_source_v6.map(IpAddr::from)),
        ];
        for (field, source) in sources {
            source.map_or(Ok(()), |source| check_address(item, field, source))?;
        }
        if let Some(vtep) = &settings.vtep {
            for (field, mac) in [("vtep mac", vtep.mac), ("vtep mac_v6", vtep.mac_v6)] {
                mac.map_or(Ok(()), |mac| check_mac(item, field, mac))?;
            }
        }
    }
    let settings = change.settings.as_ref().or(tables.settings.as_ref());
    let vtep = settings.and_then(|settings| settings.vtep.as_ref());
    let mut put = BTreeSet::new();
    for (name, parameters) in &change.put_adjacencies {
        let item = || format!("adjacency {name}");
        if name.is_empty() || name == LOCAL {
            return Err(Error::BadName { name: name.clone() });
        }
        check_address(item, "endpoint", parameters.endpoint.ip())?;
        if parameters.endpoint.port() == 0 {
            return Err(Error::PortZero { adjacency: name.clone() });
        }
        check_mtu(item, parameters.mtu_bytes, MIN_MTU_BYTES)?;
        if let Encapsulation::Vxlan { vtep_mac } = parameters.encapsulation {
            check_mac(item, "vtep_mac", vtep_mac)?;
        }
        let needs_keys = matches!(parameters.encapsulation, Encapsulation::Esp { .. })
            || matches!(parameters.meanwhile, Meanwhile::Sealed { .. });
        if needs_keys && tables.sad.is_none() {
            return Err(Error::NoEncryption { adjacency: name.clone() });
        }
        match parameters.encapsulation {
            Encapsulation::Vxlan { .. } if vtep.is_none() => {
                return Err(Error::NoVtep { adjacency: name.clone() });
            }
            _ => {}
        }
        if !put.insert(name.as_str()) {
            return Err(Error::NamedTwice { item: item() });
        }
    }
    let gone: BTreeSet<&str> = change
        .drop_adjacencies
        .iter()
        .map(String::as_str)
        .filter(|name| !put.contains(name))
        .collect();
    // Those that stay as they are must get along with the settings too.
    let left = tables.adjacencies.iter().find(|(name, known)| {
        matches!(known.parameters.encapsulation, Encapsulation::Vxlan { .. })
            && vtep.is_none()
            && !put.contains(&***name)
            && !gone.contains(&***name)
    });
    if let Some((name, _)) = left {
        return Err(Error::NoVtep { adjacency: name.to_string() });
    }
    let mut prefixes = BTreeSet::new();
    for (prefix, target) in &change.put_entries {
        if !prefixes.insert(*prefix) {
            return Err(Error::NamedTwice { item: format!("entry {prefix}") });
        }
        let TargetName::Adjacency(name) = target else { continue };
        let known = tables.adjacencies.contains_key(name.as_str()) && !gone.contains(&**name);
        if !known && !put.contains(name.as_str()) {
            return Err(Error::UnknownTarget { prefix: *prefix, target: name.clone() });
        }
    }
    // Entries that stop leading where they led before.
    prefixes.extend(&change.drop_entries);
    let mut freed: BTreeMap<AdjacencyId, usize> = BTreeMap::new();
    for id in prefixes.iter().filter_map(|prefix| tables.entries.get(prefix).copied().flatten()) {
        *freed.entry(id).or_default() += 1;
    }
    for name in gone {
        let Some(known) = tables.adjacencies.get(name) else { continue };
        let uses = known.uses - freed.get(&known.id).copied().unwrap_or(0);
        if uses > 0 {
            return Err(Error::StillInUse { adjacency: name.to_owned(), uses });
        }
    }
    Ok(())
}

fn check_mac(item: impl Fn() -> String, field: &'static str, mac: MacAddress) -> Result<(), Error> {
    if mac.is_unicast() { Ok(()) } else { Err(Error::NoStation { item: item(), field, mac }) }
}

fn check_mtu(item: impl Fn() -> String, mtu_bytes: u16, min_bytes: u16) -> Result<(), Error> {
    if mtu_bytes < min_bytes {
        return Err(Error::MtuTooSmall { item: item(), mtu_bytes, min_bytes });
    }
    Ok(())
}

fn check_address(
    item: impl Fn() -> String,
    field: &'static str,
    address: IpAddr,
) -> Result<(), Error> {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || is_broadcast {
        return Err(Error::NotUnicast { item: item(), field, address });
    }
    Ok(())
}
