//! Packets and FIBs for unit tests: host A (10.5.1.0/24) with peers B (.2) and C (.3).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tunneld_wire::checksum::Sum;
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::vxlan::Vni;
use tunneld_wire::{ip, ipv4, ipv6};

use crate::adjacency::{OuterDf, Parameters};
use crate::drop_reason::DropReason;
use crate::encapsulation::Vtep;
use crate::encapsulation::{Encapsulation, Meanwhile};
use crate::fib::{Fib, Settings, SourceCheck};
use crate::sad::Sad;
use crate::segmentation::Segmentation;
use crate::transaction::{Change, Tables, TargetName};

pub(crate) const UNDERLAY_B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
pub(crate) const UNDERLAY_C: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 3);
pub(crate) const ICMP_SOURCE: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 0);
pub(crate) const NOW_NS: u64 = 1_000_000_000;

pub(crate) fn parameters(address: Ipv4Addr, mtu_bytes: u16) -> Parameters {
    let endpoint = SocketAddr::from((address, 8285));
    Parameters {
        encapsulation: Encapsulation::Raw,
        endpoint,
        mtu_bytes,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    }
}

pub(crate) fn settings(source_check: SourceCheck) -> Settings {
    Settings {
        source_check,
        device_mtu_bytes: 1_472,
        icmp_source: Some(ICMP_SOURCE),
        icmp_source_v6: None,
        vtep: None,
    }
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

pub(crate) const KEY_B: [u8; 32] = [0xb0; 32];

/// The change of host A where B is reached by ESP, and C as ever.
pub(crate) fn esp_change(source_check: SourceCheck) -> Change {
    let mut change = change(source_check);
    let subnet = "10.5.2.0/24".parse().unwrap();
    change.put_adjacencies[0].1.encapsulation = Encapsulation::Esp { key: KEY_B, subnet };
    change
}

/// The FIB of host A where B is reached by ESP.
pub(crate) fn protected_host_a(source_check: SourceCheck, sad: &Arc<Sad>) -> (Tables, Fib) {
    let mut tables = Tables::new(1).sealing(Arc::clone(sad));
    let fib = tables.commit(esp_change(source_check)).unwrap();
    (tables, fib)
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
        protocol: ip::PROTOCOL_UDP,
        checksum: 0,
        source: source.into(),
        destination: destination.into(),
    };
    let mut packet = header.emit().to_vec();
    packet.extend((ipv4::Header::LEN..len).map(|place| place as u8));
    packet
}

/// How a packet of either version is cut.
pub(crate) fn segmentation(
    vnet: &VnetHeader,
    packet: &[u8],
    take_hop: bool,
) -> Result<Segmentation, DropReason> {
    if Version::of(packet) == Some(Version::V6) {
        let header = ipv6::Header::parse(packet).map_err(|_| DropReason::Malformed)?;
        return Segmentation::new(vnet, &header, packet, take_hop);
    }
    let header = ipv4::Header::parse(packet).map_err(|_| DropReason::Malformed)?;
    Segmentation::new(vnet, &header, packet, take_hop)
}

/// What the device says of a super-packet whose transport begins at `start`.
pub(crate) fn vnet(gso: Gso, gso_size: u16, start: u16) -> VnetHeader {
    let checksum_offset = if gso == Gso::UdpL4 { 6 } else { 16 };
    VnetHeader {
        flags: 1,
        gso,
        gso_size,
        checksum_start: start,
        checksum_offset,
        ..Default::default()
    }
}

/// Leaves the pseudo-header's sum in the place of the checksum, if that is there, as the kernel
/// does with a super-packet.
pub(crate) fn make_partial(vnet: &VnetHeader, packet: &mut [u8]) {
    let start = usize::from(vnet.checksum_start);
    let place = start + usize::from(vnet.checksum_offset);
    if !vnet.needs_checksum() || place + 2 > packet.len() {
        return;
    }
    let len = (packet.len() - start) as u16;
    let addresses = if packet[0] >> 4 == 6 { 8..40 } else { 12..20 };
    let protocol = if vnet.gso == Gso::UdpL4 { ip::PROTOCOL_UDP } else { ip::PROTOCOL_TCP };
    if vnet.gso == Gso::UdpL4 {
        packet[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
    }
    let sum = Sum::new().with(&packet[addresses]).with_u16(protocol.into()).with_u16(len);
    packet[place..place + 2].copy_from_slice(&sum.fold().to_be_bytes());
}

/// Writes the header checksum anew after a test changed the header.
pub(crate) fn fix_header_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = Sum::new().with(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// A TCP (ACK, with `options`) or UDP packet from B's container to A's, every checksum right.
pub(crate) fn transport_packet(protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut packet = packet([10, 5, 2, 2], [10, 5, 1, 2], 63, 20);
    packet[9] = protocol;
    if protocol == ip::PROTOCOL_TCP {
        let data_offset = (20 + options.len() as u8) / 4;
        packet.extend([0x9c, 0x40, 0x14, 0x51, 0x12, 0x34, 0x56, 0x78, 1, 2, 3, 4]);
        packet.extend([data_offset << 4, 0x10, 0xfa, 0xf0, 0, 0, 0, 0]);
        packet.extend(options);
    } else {
        let len = 8 + payload.len() as u16;
        packet.extend([0x9c, 0x40, 0x00, 0x09]);
        packet.extend(len.to_be_bytes());
        packet.extend([0; 2]);
    }
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    fix_checksums(&mut packet);
    packet
}

/// Writes both checksums of a TCP or UDP packet without IP options anew, word by word.
pub(crate) fn fix_checksums(packet: &mut [u8]) {
    fix_header_checksum(packet);
    let place = if packet[9] == ip::PROTOCOL_TCP { 36 } else { 26 };
    packet[place..place + 2].fill(0);
    let mut bytes = packet[12..20].to_vec();
    bytes.extend([0, packet[9]]);
    bytes.extend((packet.len() as u16 - 20).to_be_bytes());
    bytes.extend(&packet[20..]);
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 if packet[9] == ip::PROTOCOL_UDP => 0xffff,
        checksum => checksum,
    };
    packet[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

pub(crate) const MAC: MacAddress = MacAddress([0x0e, 0x2a, 0, 0, 0, 1]);
pub(crate) const MAC_V6: MacAddress = MacAddress([0x0e, 0x2a, 0, 0, 6, 1]);
pub(crate) const MAC_B: MacAddress = MacAddress([0x0e, 0x2a, 0, 0, 0, 2]);

/// Host A as the end of VXLAN tunnels.
pub(crate) fn vtep() -> Vtep {
    Vtep { vni: Vni::new(7).unwrap(), gbp: false, mac: Some(MAC), mac_v6: Some(MAC_V6) }
}

/// The change of host A where B is reached by VXLAN, and the device's MTU is 1,450.
pub(crate) fn vxlan_change(source_check: SourceCheck) -> Change {
    let mut change = change(source_check);
    let plain = change.settings.unwrap();
    change.settings = Some(Settings { device_mtu_bytes: 1_450, vtep: Some(vtep()), ..plain });
    for (_, parameters) in &mut change.put_adjacencies {
        parameters.encapsulation = Encapsulation::Vxlan { vtep_mac: MAC_B };
    }
    change
}

/// A datagram as B sends it, with `packet` inside.
pub(crate) fn framed(packet: &[u8]) -> Vec<u8> {
    let head = [&[0x08, 0, 0, 0, 0, 0, 7, 0][..], &MAC.0, &MAC_B.0, &[0x08, 0x00]];
    [&head.concat(), packet].concat()
}

/// The same packet over IPv6: the transport and its payload, the traffic class and the hop limit
/// stay; the addresses are fd00:5:2::2 for 10.5.2.2 and so on. Every checksum is right.
pub(crate) fn over_ipv6(packet: &[u8]) -> Vec<u8> {
    let address = |octets: &[u8]| {
        let mut bytes = [0xfd, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        (bytes[5], bytes[15]) = (octets[2], octets[3]);
        bytes
    };
    let mut made = vec![0x60 | packet[1] >> 4, packet[1] << 4, 0x23, 0x45];
    made.extend((packet.len() as u16 - 20).to_be_bytes());
    made.extend([packet[9], packet[8]]);
    made.extend(address(&packet[12..16]));
    made.extend(address(&packet[16..20]));
    made.extend(&packet[20..]);
    fix_checksums_v6(&mut made);
    made
}

/// Writes the checksum of a TCP or UDP packet without extension headers anew, word by word.
pub(crate) fn fix_checksums_v6(packet: &mut [u8]) {
    let place = if packet[6] == ip::PROTOCOL_TCP { 56 } else { 46 };
    if packet.len() < place + 2 {
        return;
    }
    packet[place..place + 2].fill(0);
    let mut bytes = packet[8..40].to_vec();
    bytes.extend([0, packet[6]]);
    bytes.extend((packet.len() as u16 - 40).to_be_bytes());
    bytes.extend(&packet[40..]);
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 if packet[6] == ip::PROTOCOL_UDP => 0xffff,
        checksum => checksum,
    };
    packet[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Host A where the network has both families: fd00:5:1::/48 here, and so on.
pub(crate) fn dual_stack(source_check: SourceCheck) -> Change {
    let mut change = change(source_check);
    if let Some(settings) = &mut change.settings {
        settings.icmp_source_v6 = Some("fd00:5:1::".parse().unwrap());
    }
    for (prefix, target) in change.put_entries.clone() {
        let text = prefix.to_string().replace("10.5.", "fd00:5:").replace(".0/24", "::/48");
        change.put_entries.push((text.parse().unwrap(), target));
    }
    change
}
