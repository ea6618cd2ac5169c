use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::Vtep;
use tunneld_core::encapsulation::{Encapsulation, Meanwhile};
use tunneld_core::fib::{Settings, SourceCheck};
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::ethernet::MacAddress;
use tunneld_wire::vxlan::{self, Vni};
use tunneld_wire::{ip, ipv4};

use super::*;
use crate::descriptor::{Descriptors, Icmp, Underlay, UnderlaySockets};
use crate::errands::Errands;
use crate::event::{Event, Events};
use crate::offloads::Offloads;
use crate::pulse::{Mode, Pulse};

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)), 8285);
const COUNT: usize = 40;
const LEN: usize = 1_400;

fn fib(vtep: Option<Vtep>) -> Fib {
    let vtep_mac = MacAddress([2, 0, 0, 0, 0, 2]);
    let encapsulation = vtep.map_or(Encapsulation::Raw, |_| Encapsulation::Vxlan { vtep_mac });
    let peer = Parameters {
        encapsulation,
        endpoint: PEER,
        mtu_bytes: 1_472,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    let change = Change {
        settings: Some(Settings {
            source_check: SourceCheck::Strict,
            device_mtu_bytes: 1_472,
            icmp_source: Some(Ipv4Addr::new(10, 5, 1, 0)),
            icmp_source_v6: None,
            vtep,
        }),
        put_adjacencies: vec![("peer".into(), peer)],
        put_entries: vec![
            ("10.5.1.0/24".parse().unwrap(), TargetName::Local),
            ("10.5.2.0/24".parse().unwrap(), TargetName::Adjacency("peer".into())),
        ],
        ..Change::default()
    };
    Tables::new(1).commit(change).unwrap()
}

/// What the device gets of a batch; too large a write is refused with EMSGSIZE.
struct Refusing {
    descriptors: Descriptors,
    far: OwnedFd,
    pulse: Pulse,
    events: Events,
    offloads: Offloads,
    errands: Errands,
}

impl Refusing {
    fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        set_socket_send_buffer_size(&near, 8_192).unwrap();
        let underlay = Underlay::duplicate(&UnderlaySockets::default()).unwrap();
        let icmp = Icmp { ipv4: None, ipv6: None };
        let descriptors = Descriptors { tun: near, underlay, icmp };
        let (pulse, events) = (Pulse::new().unwrap(), Events::new().unwrap());
        let (offloads, errands) = (Offloads::all_on(), Errands::default());
        Self { descriptors, far, pulse, events, offloads, errands }
    }

    fn device(&self) -> Device<'_> {
        let Self { descriptors, pulse, events, offloads, errands, .. } = self;
        Device(Surroundings { descriptors, pulse, events, offloads, errands, keying: None })
    }

    /// Delivers a batch; returns the packets the device took.
    fn deliver(&self, memory: &[u8], inbound: &Inbound, fib: &Fib) -> Vec<Vec<u8>> {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut packets = Vec::new();
                while self.pulse.wait_readable(&[self.far.as_fd()], || false).unwrap().is_some() {
                    self.drain(&mut packets);
                }
                self.drain(&mut packets);
                packets
            });
            self.device().deliver(memory, inbound, fib).unwrap();
            self.pulse.set(Mode::Stop);
            reader.join().unwrap()
        })
    }

    fn drain(&self, packets: &mut Vec<Vec<u8>>) {
        let mut buffer = vec![0; 70_000];
        while let Ok((len, _)) = recv(&self.far, &mut buffer, RecvFlags::DONTWAIT) {
            assert_eq!(buffer[..10], [0; 10]);
            packets.push(buffer[10..len].to_vec());
        }
    }
}

/// A train of TCP segments that may be joined.
fn train() -> Vec<u8> {
    let mut train = Vec::new();
    for number in 0..COUNT {
        let header = ipv4::Header {
            header_len: ipv4::Header::LEN,
            type_of_service: 0,
            total_len: LEN as u16,
            identification: number as u16,
            fragment: 0x4000,
            hop_limit: 63,
            protocol: ip::PROTOCOL_TCP,
            checksum: 0,
            source: Ipv4Addr::new(10, 5, 2, 2),
            destination: Ipv4Addr::new(10, 5, 1, 2),
        };
        let mut packet = header.emit().to_vec();
        packet.extend([0x9c, 0x40, 0x14, 0x51]);
        packet.extend(((number * (LEN - 40)) as u32).to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        packet.resize(LEN, number as u8);
        let sum = ipv4::pseudo_header(&header, header.protocol)
            .with_u16(LEN as u16 - 20)
            .with(&packet[20..]);
        packet[36..38].copy_from_slice(&sum.checksum().to_be_bytes());
        train.extend(packet);
    }
    train
}

#[test]
fn a_super_packet_that_the_device_refuses_is_written_packet_by_packet() {
    let (refusing, fib) = (Refusing::new(), fib(None));
    let mut memory = train();
    let mut inbound = Inbound::new(0, Arc::default());
    inbound.set_coalescing(refusing.device().kinds());
    let place = 0..memory.len();
    inbound.handle(&fib, Via::Plain, PEER, &mut memory, place, Some(LEN), 1);
    assert_eq!(inbound.deliveries().len(), 1);

    let got = refusing.deliver(&memory, &inbound, &fib);
    assert!(got.iter().eq(memory.chunks(LEN)));
    assert_eq!(inbound.counters().drops(DropReason::DeviceRefused).read(), 0);
    assert!(!refusing.offloads.is_on(Offload::CoalesceTcp));
    assert!(refusing.offloads.is_on(Offload::CoalesceUdp));
    let (offload, errno) = (Offload::CoalesceTcp, Errno::MSGSIZE);
    let lost = Event::OffloadLost { offload, errno, adjacency: None };
    assert_eq!(refusing.events.drain(), [lost]);
}

/// A UDP packet over IPv4 with `payload`, `number` its identification.
fn udp_packet(number: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let header = ipv4::Header {
        header_len: ipv4::Header::LEN,
        type_of_service: 0,
        total_len: 20 + udp_len,
        identification: number,
        fragment: 0x4000,
        hop_limit: 63,
        protocol: ip::PROTOCOL_UDP,
        checksum: 0,
        source: Ipv4Addr::new(10, 5, 2, 2),
        destination: Ipv4Addr::new(10, 5, 1, 2),
    };
    let mut packet = header.emit().to_vec();
    packet.extend([0x9c, 0x40, 0x14, 0x51]);
    packet.extend(udp_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let pseudo = ipv4::pseudo_header(&header, header.protocol).with_u16(udp_len);
    let checksum = pseudo.with(&packet[20..]).checksum();
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn a_super_packet_of_a_peer_that_the_device_refuses_is_cut() {
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let vtep = Vtep { vni: Vni::new(7).unwrap(), gbp: false, mac: Some(mac), mac_v6: None };
    let (refusing, fib) = (Refusing::new(), fib(Some(vtep)));
    let payload: Vec<u8> = (0..20_400usize).map(|place| (place * 7) as u8).collect();
    let expected: Vec<_> =
        payload.chunks(1_000).zip(0..).map(|(part, number)| udp_packet(number, part)).collect();
    let mut memory = vxlan::emit(vtep.vni).to_vec();
    memory.extend([&mac.0[..], &[2, 0, 0, 0, 0, 2], &[8, 0]].concat());
    memory.extend(udp_packet(0, &payload));
    let mut inbound = Inbound::new(0, Arc::default());
    let place = 0..memory.len();
    inbound.handle(&fib, Via::Plain, PEER, &mut memory, place, Some(1_000), 1);

    assert_eq!(refusing.deliver(&memory, &inbound, &fib), expected);
    assert_eq!(inbound.counters().drops(DropReason::DeviceRefused).read(), 0);
    assert!(refusing.offloads.is_on(Offload::CoalesceUdp));
    assert_eq!(refusing.events.drain(), []);
}
