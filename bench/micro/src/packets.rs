//! The packets and the network that the cases work on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::Vtep;
use tunneld_core::encapsulation::{Around, Encapsulate, Heads};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile};
use tunneld_core::fib::{Fib, Settings, SourceCheck};
use tunneld_core::prefix::Prefix;
use tunneld_core::sad::Sad;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::checksum::Sum;
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::ip::Version;
use tunneld_wire::vxlan::Vni;
use tunneld_wire::{ip, ipv4};

/// The far host.
pub(crate) const PEER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)), 8285);

/// Returns a FIB with the own subnet 10.5.1.0/24, a peer with 10.5.2.0/24, and `more` prefixes.
pub(crate) fn fib(more: impl Iterator<Item = Prefix>) -> Fib {
    build(Tables::new(1), [1, 2], Encapsulation::Raw, None, more)
}

/// Returns a FIB with the same subnets, where the peer is reached by VXLAN.
pub(crate) fn vxlan_fib() -> Fib {
    let encapsulation = Encapsulation::Vxlan { vtep_mac: mac(2) };
    build(Tables::new(1), [1, 2], encapsulation, vtep(1), std::iter::empty())
}

/// Public key of whoever holds a subnet.
pub(crate) const fn key(host: u8) -> [u8; 32] {
    [host; 32]
}

/// Returns the subnet of a host.
pub(crate) fn subnet(host: u8) -> Option<Prefix> {
    Prefix::new(Ipv4Addr::new(10, 5, host, 0), 24).ok()
}

/// Returns the FIB of `host`, 1 or 2, where the other is reached by ESP with the keys in `sad`.
pub(crate) fn esp_fib(host: u8, sad: &Arc<Sad>) -> Fib {
    let far = 3 - host;
    let Some(subnet) = subnet(far) else { return Fib::empty() };
    let tables = Tables::new(1).sealing(Arc::clone(sad));
    let encapsulation = Encapsulation::Esp { key: key(far), subnet };
    build(tables, [host, far], encapsulation, None, std::iter::empty())
}

/// Returns `packet` in the frame of that peer.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    let heads = Heads::new(vtep(2).as_ref(), mac(1));
    let mut datagram = [&[0; Heads::HEAD], packet].concat();
    let around = heads.begin(0, Version::V4, 1, 0);
    let len = around.and_then(|mut around| around.finish(&mut datagram)).unwrap_or(0);
    datagram.truncate(len);
    datagram
}

const fn mac(host: u8) -> MacAddress {
    MacAddress([0x0e, 0x2a, 0, 0, 0, host])
}

fn vtep(host: u8) -> Option<Vtep> {
    Vni::new(1).map(|vni| Vtep { vni, gbp: false, mac: Some(mac(host)), mac_v6: None })
}

fn build(
    mut tables: Tables,
    [own, far]: [u8; 2],
    encapsulation: Encapsulation,
    vtep: Option<Vtep>,
    more: impl Iterator<Item = Prefix>,
) -> Fib {
    let peer = Parameters {
        encapsulation,
        endpoint: PEER,
        mtu_bytes: 1_472,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    let to_peer = || TargetName::Adjacency("peer".into());
    let mut put_entries: Vec<_> = more.map(|prefix| (prefix, to_peer())).collect();
    if let (Some(own), Some(far)) = (subnet(own), subnet(far)) {
        put_entries.extend([(own, TargetName::Local), (far, to_peer())]);
    }
    let change = Change {
        settings: Some(Settings {
            source_check: SourceCheck::Strict,
            device_mtu_bytes: 1_472,
            icmp_source: Some(Ipv4Addr::new(10, 5, own, 0)),
            icmp_source_v6: None,
            vtep,
        }),
        put_adjacencies: vec![("peer".into(), peer)],
        put_entries,
        ..Change::default()
    };
    tables.commit(change).unwrap_or_else(|_| Fib::empty())
}

/// Returns a packet of `len` bytes between the subnets, number `number` of its flow, every
/// checksum right.
pub(crate) fn packet(protocol: u8, len: usize, number: usize, inbound: bool) -> Vec<u8> {
    let (here, there) = (Ipv4Addr::new(10, 5, 1, 2), Ipv4Addr::new(10, 5, 2, 2));
    let (source, destination) = if inbound { (there, here) } else { (here, there) };
    let header = ipv4::Header {
        header_len: ipv4::Header::LEN,
        type_of_service: 0,
        total_len: len as u16,
        identification: number as u16,
        fragment: 0x4000,
        hop_limit: 63,
        protocol,
        checksum: 0,
        source,
        destination,
    };
    let mut packet = header.emit().to_vec();
    packet.resize(len, 0x5a);
    let transport = &mut packet[ipv4::Header::LEN..];
    let field = if protocol == ip::PROTOCOL_TCP {
        let sequence = (number * (len - 40)) as u32;
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        transport[12..14].copy_from_slice(&[0x50, 0x10]);
        16
    } else {
        transport[4..6].copy_from_slice(&((len - 20) as u16).to_be_bytes());
        6
    };
    transport[field..field + 2].fill(0);
    let length = transport.len() as u16;
    let sum = ipv4::pseudo_header(&header, protocol).with_u16(length).with(transport);
    transport[field..field + 2].copy_from_slice(&Sum::checksum(sum).to_be_bytes());
    packet
}

/// Repeatable pseudo-random numbers. Source: xorshift64*, Vigna 2016.
pub(crate) struct Chosen(pub(crate) u64);

impl Chosen {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
