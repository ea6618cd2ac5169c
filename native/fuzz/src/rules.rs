//! The rules that hold for whatever arrives, and the half of a worker that takes it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tunneld_core::coalescing::Kinds;
use tunneld_core::counters::WorkerCounters;
use tunneld_core::drop_reason::DropReason;
use tunneld_core::inbound::Inbound;
use tunneld_core::segmentation::Segmentation;
use tunneld_wire::ip::Version;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};
use tunneld_wire::{ipv4, ipv6};

pub(crate) const MTU_BYTES: u16 = 1_472;
pub(crate) const PEER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)), 8285);

pub(crate) fn inbound() -> Inbound {
    let mut inbound = Inbound::new(0, Arc::default());
    inbound.set_coalescing(Kinds { tcp: true, udp: true });
    inbound
}

/// Sets what a rule looks at back to zero.
pub(crate) fn forget(counters: &WorkerCounters) {
    counters.packets.set(0);
    DropReason::ALL.iter().for_each(|reason| counters.drops(*reason).set(0));
}

pub(crate) fn drops(counters: &WorkerCounters) -> (u64, Vec<u8>) {
    let counts = DropReason::ALL.iter().map(|reason| counters.drops(*reason).read());
    let counts: Vec<u64> = counts.collect();
    (counts.iter().sum(), counts.iter().map(|count| u8::from(*count > 0)).collect())
}

/// Returns how many packets are delivered, and in what shape: what is joined comes apart into what
/// came in.
pub(crate) fn apart(inbound: &Inbound, memory: &[u8]) -> Result<(u64, Vec<u8>), String> {
    let batch = inbound.deliveries();
    let mut delivered = 0;
    let mut shape = Vec::new();
    for delivery in batch.iter() {
        delivered += delivery.count as u64;
        shape.push(delivery.count.min(3) as u8);
        let packets = batch.singles(delivery).map(|(place, vnet)| finished(&memory[place], vnet));
        let packets: Vec<Vec<u8>> = packets.collect::<Result<_, _>>()?;
        let Some(headers) = batch.headers(delivery, memory) else { continue };
        let mut whole = headers.as_bytes().to_vec();
        packets.iter().for_each(|packet| whole.extend(&packet[headers.len..]));
        let cut = segmentation(&headers.vnet, &whole)?;
        if cut.count() != packets.len() {
            return Err(format!("{} packets come apart as {}", packets.len(), cut.count()));
        }
        for (index, packet) in packets.iter().enumerate() {
            let mut segment = vec![0; cut.segment_len(index)];
            cut.write(&whole, index, &mut segment);
            // The identification of an atomic datagram means nothing, so that it may change; over
            // IPv6 there is none.
            let is_equal = segment == *packet
                || (Version::of(packet) == Some(Version::V4)
                    && segment.len() == packet.len()
                    && segment[..4] == packet[..4]
                    && segment[6..10] == packet[6..10]
                    && segment[12..] == packet[12..]);
            if !is_equal {
                return Err(format!("packet {index} of a super-packet is not what came in"));
            }
        }
    }
    shape.truncate(6);
    Ok((delivered, shape))
}

/// Returns a packet that goes alone, finished as the device finishes it.
///
/// # Errors
///
/// The device would refuse it, or cut a stream into packets that are larger than its MTU.
fn finished(packet: &[u8], vnet: VnetHeader) -> Result<Vec<u8>, String> {
    if vnet.gso != Gso::None {
        let longest = segmentation(&vnet, packet)?.segment_len(0);
        if vnet.gso != Gso::UdpL4 && longest > MTU_BYTES.into() {
            return Err(format!("a packet of {longest} bytes is let through"));
        }
    }
    let mut whole = packet.to_vec();
    if vnet.needs_checksum() {
        vnet.copy_finished(&mut whole, packet).map_err(|error| error.to_string())?;
    }
    Ok(whole)
}

/// Returns how a super-packet comes apart.
fn segmentation(vnet: &VnetHeader, whole: &[u8]) -> Result<Segmentation, String> {
    let cut = if Version::of(whole) == Some(Version::V6) {
        let header = ipv6::Header::parse(whole).map_err(|error| error.to_string())?;
        Segmentation::new(vnet, &header, whole, false)
    } else {
        let header = ipv4::Header::parse(whole).map_err(|error| error.to_string())?;
        Segmentation::new(vnet, &header, whole, false)
    };
    cut.map_err(|reason| format!("a super-packet is {}", reason.label()))
}
