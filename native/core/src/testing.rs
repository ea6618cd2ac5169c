//! Packets and FIBs for unit tests: host A (10.5.1.0/24) with peers B (.2) and C (.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use tunneld_wire::ipv4;

use crate::adjacency::{Encapsulation, Parameters};
use crate::fib::{Fib, Settings, SourceCheck};
use crate::transaction::{Change, Tables, TargetName};

pub(crate) const UNDERLAY_B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
pub(crate) const UNDERLAY_C: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);
pub(crate) const ICMP_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);
pub(crate) const NOW_NS: u64 = 1_000_000_000;

pub(crate) fn parameters(address: Ipv4Addr, mtu_bytes: u16) -> Parameters {
    let endpoint = SocketAddrV4::new(address, 8285);
    Parameters { encapsulation: Encapsulation::Raw, endpoint, mtu_bytes }
}

pub(crate) fn settings(source_check: SourceCheck) -> Settings {
    Settings { source_check, device_mtu_bytes: 1_472, icmp_source: ICMP_SOURCE }
}

pub(crate) fn change(source_check: SourceCheck) -> Change {
    let entry = |prefix: &str, target: Option<&str>| {
        let target = target.map_or(TargetName::Local, |name| TargetName::Adjacency(name.into()));
        (prefix.parse().unwrap(), target)
    };
    Change {
        settings: Some(settings(source_check)),
        put_adjacencies: vec![
            ("b".into(), parameters(UNDERLAY_B, 1_472)),
            ("c".into(), parameters(UNDERLAY_C, 1_400)),
        ],
        put_entries: vec![
            entry("10.5.1.0/24", None),
            entry("10.5.2.0/24", Some("b")),
            entry("10.5.3.0/24", Some("c")),
        ],
        ..Change::default()
    }
}

/// The FIB of host A, with its tables, which own the counters.
pub(crate) fn host_a(source_check: SourceCheck) -> (Tables, Fib) {
    let mut tables = Tables::new(1);
    let fib = tables.commit(change(source_check)).unwrap();
    (tables, fib)
}

/// A UDP packet of `len` bytes, its header right in every field.
pub(crate) fn packet(source: [u8; 4], destination: [u8; 4], hop_limit: u8, len: usize) -> Vec<u8> {
    let header = ipv4::Header {
        header_len: ipv4::Header::LEN,
        type_of_service: 0,
        total_len: len as u16,
        identification: 0x1234,
        fragment: 0x4000,
        hop_limit,
        protocol: ipv4::PROTOCOL_UDP,
        checksum: 0,
        source: source.into(),
        destination: destination.into(),
    };
    let mut packet = header.emit().to_vec();
    packet.extend((ipv4::Header::LEN..len).map(|place| place as u8));
    packet
}

/// Writes the header checksum anew after a test changed the header.
pub(crate) fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = tunneld_wire::checksum::Sum::new().with(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}
