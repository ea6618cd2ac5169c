use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::slice;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tunneld_core::adjacency::{Encapsulation, Parameters};
use tunneld_core::fib::{Settings, SourceCheck};
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::{ip, ipv4};

use super::*;
use crate::event::Event;

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)), 8285);
const COUNT: usize = 40;
const LEN: usize = 1_400;

fn fib() -> Fib {
    let peer = Parameters { encapsulation: Encapsulation::Raw, endpoint: PEER, mtu_bytes: 1_472 };
    let change = Change {
        settings: Some(Settings {
            source_check: SourceCheck::Strict,
            device_mtu_bytes: 1_472,
            icmp_source: Some(Ipv4Addr::new(10, 5, 1, 0)),
            icmp_source_v6: None,
            vtep: None,
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
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
    // Too small for the super-packet: the kernel answers with EMSGSIZE.
    set_socket_send_buffer_size(&near, 8_192).unwrap();
    let (pulse, events, offloads) =
        (Pulse::new().unwrap(), Events::new().unwrap(), Offloads::all_on());
    let device = Device { queue: &near, pulse: &pulse, events: &events, offloads: &offloads };
    let fib = fib();
    let mut memory = train();
    let mut inbound = Inbound::new(0, Arc::default());
    inbound.set_coalescing(device.kinds());
    let place = 0..memory.len();
    inbound.handle(&fib, PEER, &mut memory, place, Some(LEN), 1);
    assert_eq!(inbound.deliveries().deliveries().len(), 1);

    let mut got = Vec::new();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut packets = Vec::new();
            while packets.len() < COUNT
                && pulse.wait_readable(slice::from_ref(&far)).unwrap().is_some()
            {
                let mut buffer = vec![0; 70_000];
                if let Ok((len, _)) = recv(&far, &mut buffer, RecvFlags::DONTWAIT) {
                    packets.push(buffer[..len].to_vec());
                }
            }
            packets
        });
        device.deliver(&memory, &inbound, &fib).unwrap();
        got = reader.join().unwrap();
    });
    let expected: Vec<_> =
        memory.chunks(LEN).map(|packet| [&[0; 10][..], packet].concat()).collect();
    assert_eq!(got, expected);
    assert_eq!(inbound.counters().drops(DropReason::DeviceRefused).read(), 0);
    assert!(!offloads.is_on(Offload::CoalesceTcp));
    assert!(offloads.is_on(Offload::CoalesceUdp));
    let lost = Event::OffloadLost { offload: Offload::CoalesceTcp, errno: Errno::MSGSIZE };
    assert_eq!(events.drain(), [lost]);
}
