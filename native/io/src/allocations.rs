//! Proves that moving packets allocates nothing, once a data thread's buffers have their size.

mod esp;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::time::Timespec;
use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile};
use tunneld_core::fib::{Settings, SourceCheck};
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_wire::{ip, ipv4};

use crate::descriptor::{Descriptors, Icmp, Underlay, UnderlaySockets};
use crate::errands::Errands;
use crate::event::Events;
use crate::inbound::InboundDuty;
use crate::offloads::Offloads;
use crate::outbound::OutboundDuty;
use crate::publish::Publisher;
use crate::pulse::Pulse;
use crate::surroundings::Surroundings;

/// The system's allocator, which counts for each thread how often it is asked.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing, since
// the counter is made at compile time and has nothing to drop. `realloc` is made of both.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to what `alloc` asks of the layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is one that `alloc` returned for this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// However busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
const SEGMENTS: usize = 40;
const SEGMENT_LEN: usize = 1_360;
const HOST: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);

/// A host with a device, a peer behind the loopback device, and what a data thread works with.
struct Host {
    descriptors: Descriptors,
    /// Where what is written to the device comes out, and what is read from it goes in.
    device: OwnedFd,
    address: SocketAddr,
    peer: UdpSocket,
    publisher: Publisher,
    pulse: Pulse,
    events: Events,
    offloads: Offloads,
    errands: Errands,
}

impl Host {
    fn new() -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (tun, device) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        let [own, peer] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let sockets = UnderlaySockets { ipv4: vec![own.as_raw_fd()], ..UnderlaySockets::default() };
        let underlay = Underlay::duplicate(&sockets).unwrap();
        let icmp = Icmp { ipv4: None, ipv6: None };
        let mut publisher = Publisher::new();
        publisher.publish(Tables::new(1).commit(change(peer.local_addr().unwrap())).unwrap());
        Self {
            descriptors: Descriptors { tun, underlay, icmp },
            device,
            address: own.local_addr().unwrap(),
            peer,
            publisher,
            pulse: Pulse::new().unwrap(),
            events: Events::new().unwrap(),
            offloads: Offloads::all_on(),
            errands: Errands::default(),
        }
    }

    fn surroundings(&self) -> Surroundings<'_> {
        let Self { descriptors, pulse, events, offloads, errands, .. } = self;
        Surroundings { descriptors, pulse, events, offloads, errands, keying: None }
    }
}

fn change(peer: SocketAddr) -> Change {
    let parameters = Parameters {
        encapsulation: Encapsulation::Raw,
        endpoint: peer,
        mtu_bytes: 1_472,
        outer_df: OuterDf::Kernel,
        meanwhile: Meanwhile::Nothing,
    };
    Change {
        settings: Some(Settings {
            source_check: SourceCheck::Strict,
            device_mtu_bytes: 1_472,
            icmp_source: Some(Ipv4Addr::new(10, 5, 1, 0)),
            icmp_source_v6: None,
            vtep: None,
        }),
        put_adjacencies: vec![("peer".into(), parameters)],
        put_entries: vec![
            ("10.5.1.0/24".parse().unwrap(), TargetName::Local),
            ("10.5.2.0/24".parse().unwrap(), TargetName::Adjacency("peer".into())),
        ],
        ..Change::default()
    }
}

/// A TCP packet with a payload of `len` bytes that begins at `sequence`.
fn packet(source: Ipv4Addr, destination: Ipv4Addr, sequence: usize, len: usize) -> Vec<u8> {
    let header = ipv4::Header {
        header_len: ipv4::Header::LEN,
        type_of_service: 0,
        total_len: (40 + len) as u16,
        identification: 0,
        fragment: 0x4000,
        hop_limit: 64,
        protocol: ip::PROTOCOL_TCP,
        checksum: 0,
        source,
        destination,
    };
    let mut packet = header.emit().to_vec();
    packet.extend([0x9c, 0x40, 0x14, 0x51]);
    packet.extend((sequence as u32).to_be_bytes());
    packet.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.resize(40 + len, 7);
    let pseudo = ipv4::pseudo_header(&header, header.protocol).with_u16((20 + len) as u16);
    let checksum = pseudo.with(&packet[20..]).checksum();
    packet[36..38].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Runs `round` until everything has its size, then some more; returns what the latter allocated.
fn allocations(mut round: impl FnMut() -> u64) -> u64 {
    (0..20).for_each(|_| _ = round());
    (0..100).map(|_| round()).sum()
}

/// Returns how often `work` asked for memory.
fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| drop(Box::new([0; 64]))), 1);
}

#[test]
fn packets_on_their_way_out_allocate_nothing() {
    let host = Host::new();
    // Source: Linux include/uapi/linux/virtio_net.h: NEEDS_CSUM, GSO_TCPV4.
    let mut whole = vec![1, 1];
    for field in [40, SEGMENT_LEN as u16, 20, 16] {
        whole.extend(field.to_le_bytes());
    }
    whole.extend(packet(HOST, FAR, 0, SEGMENTS * SEGMENT_LEN));
    let mut single = vec![0; 10];
    single.extend(packet(HOST, FAR, 0, 200));
    let core = Outbound::new(0, Arc::default());
    let mut duty = OutboundDuty::new(host.surroundings(), core, host.publisher.reader());
    let mut buffer = vec![0; 65_536];
    let asked = allocations(|| {
        for message in [&whole, &single] {
            send(&host.device, message, SendFlags::empty()).unwrap();
        }
        let asked = counted(|| _ = duty.pass(None).unwrap());
        for _ in 0..=SEGMENTS {
            host.peer.recv(&mut buffer).unwrap();
        }
        asked
    });
    assert_eq!(asked, 0);
}

#[test]
fn packets_on_their_way_in_allocate_nothing() {
    let host = Host::new();
    let datagrams: Vec<_> = (0..SEGMENTS)
        .map(|number| packet(FAR, HOST, number * SEGMENT_LEN, SEGMENT_LEN))
        .chain([packet(FAR, HOST, 0, 200)])
        .collect();
    let core = Inbound::new(0, Arc::default());
    let mut duty = InboundDuty::new(host.surroundings(), core, host.publisher.reader());
    let mut buffer = vec![0; 70_000];
    let asked = allocations(|| {
        for datagram in &datagrams {
            host.peer.send_to(datagram, host.address).unwrap();
        }
        // They may come in several batches, and then are joined to several packets.
        let (mut asked, mut left) = (0, SEGMENTS * SEGMENT_LEN + 200);
        while left > 0 {
            let mut socket = [PollFd::from_borrowed_fd(duty.sockets()[0], PollFlags::IN)];
            let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            assert_eq!(poll(&mut socket, Some(&timeout)), Ok(1));
            duty.note_all();
            asked += counted(|| _ = duty.pass().unwrap());
            while let Ok((len, _)) = recv(&host.device, &mut buffer, RecvFlags::empty()) {
                left -= len - 10 - 40;
            }
        }
        asked
    });
    assert_eq!(asked, 0);
}
