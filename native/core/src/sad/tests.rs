//! Hosts that speak ESP with each other, as values, by the real cryptography.

mod batches;
mod claims;
mod keys;
mod rekeying;
mod ways;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Secret;
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_wire::ip;
use tunneld_wire::virtio_net_hdr::{Gso, Header as VnetHeader};

use super::*;
use crate::adjacency::{OuterDf, Parameters};
use crate::coalescing::Kinds;
use crate::drop_reason::DropReason;
use crate::encapsulation::{Encapsulation, Meanwhile, Via};
use crate::fib::{Fib, Settings, SourceCheck};
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::prefix::Prefix;
use crate::testing::{NOW_NS, fix_checksums, over_ipv6, packet, transport_packet, vnet};
use crate::transaction::{Change, Tables, TargetName};
use crate::waiting::Waiting;

const MTU: u16 = 1_438;

/// A host: its number is the last byte of its underlay address, and the third of its subnet.
struct Node {
    sad: Arc<Sad>,
    tables: Tables,
    fib: Fib,
    /// By worker.
    outbound: Vec<Outbound>,
    waiting: Arc<Waiting>,
    inbound: Inbound,
    now_ns: u64,
}

fn key(number: u8) -> [u8; 32] {
    [number; 32]
}

fn endpoint(number: u8) -> SocketAddr {
    (Ipv4Addr::new(192, 168, 0, number), 8286).into()
}

fn subnets(number: u8) -> [Prefix; 2] {
    [format!("10.5.{number}.0/24"), format!("fd00:5:{number}::/48")]
        .map(|text| text.parse().unwrap())
}

/// What a host says that it holds: its subnets.
fn claim(number: u8) -> Claim {
    let [ipv4, ipv6] = subnets(number);
    Claim { ipv4: Some(ipv4), ipv6: Some(ipv6) }
}

/// Everybody's settings, tables, and ways to `protected` peers by ESP and to `plain` ones.
fn change(number: u8, check: SourceCheck, protected: &[u8], plain: &[u8]) -> Change {
    let mut change = Change {
        settings: Some(Settings {
            source_check: check,
            device_mtu_bytes: MTU,
            icmp_source: Some(Ipv4Addr::new(10, 5, number, 0)),
            icmp_source_v6: Some(format!("fd00:5:{number}::").parse().unwrap()),
            vtep: None,
        }),
        ..Change::default()
    };
    for subnet in subnets(number) {
        change.put_entries.push((subnet, TargetName::Local));
    }
    let peers = protected.iter().map(|peer| (*peer, true));
    for (peer, is_protected) in peers.chain(plain.iter().map(|peer| (*peer, false))) {
        for subnet in subnets(peer) {
            let encapsulation = match is_protected {
                true => Encapsulation::Esp { key: key(peer), subnet },
                false => Encapsulation::Raw,
            };
            let (mtu_bytes, outer_df) = (MTU, OuterDf::Kernel);
            let parameters = Parameters {
                encapsulation,
                endpoint: endpoint(peer),
                mtu_bytes,
                outer_df,
                meanwhile: Meanwhile::Nothing,
            };
            let name = subnet.to_string();
            change.put_adjacencies.push((name.clone(), parameters));
            change.put_entries.push((subnet, TargetName::Adjacency(name)));
        }
    }
    change
}

impl Node {
    /// A host with so many workers, which knows `peers` by their keys.
    fn with(number: u8, workers: usize, peers: &[u8]) -> Self {
        Self::of(change(number, SourceCheck::Strict, peers, &[]), workers)
    }

    fn new(number: u8, peers: &[u8]) -> Self {
        Self::with(number, 1, peers)
    }

    fn of(change: Change, workers: usize) -> Self {
        let sad = Arc::new(Sad::new(workers));
        let mut tables = Tables::new(workers).sealing(Arc::clone(&sad));
        let fib = tables.commit(change).unwrap();
        let waiting = Arc::<Waiting>::default();
        let outbound = (0..workers)
            .map(|worker| Outbound::new(worker, Arc::default()).leaving_in(Arc::clone(&waiting)))
            .collect();
        let inbound = Inbound::new(0, Arc::default()).opening(Arc::clone(&sad));
        Self { sad, tables, fib, outbound, waiting, inbound, now_ns: NOW_NS }
    }

    fn peer(&self, number: u8) -> Arc<Protected> {
        self.sad.peer(key(number))
    }

    /// Sends a packet by the first worker; returns the datagrams.
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.send_by(0, VnetHeader::default(), packet)
    }

    /// Sends what the device hands to a worker, batch after batch.
    fn send_by(&mut self, worker: usize, vnet: VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
        let outbound = &mut self.outbound[worker];
        outbound.handle(&self.fib, vnet, packet, self.now_ns);
        let mut sent = taken(outbound);
        while outbound.is_unfinished() {
            outbound.resume(&self.fib, packet, self.now_ns);
            sent.extend(taken(outbound));
        }
        sent
    }

    /// Receives a batch with one message by the port of encryption; returns what is delivered.
    fn receive(&mut self, message: &[u8], segment_len: Option<usize>) -> Vec<Vec<u8>> {
        self.receive_from(endpoint(9), message, segment_len)
    }

    fn receive_from(
        &mut self,
        source: SocketAddr,
        message: &[u8],
        segment_len: Option<usize>,
    ) -> Vec<Vec<u8>> {
        self.inbound.clear();
        self.go_on(Via::Esp, source, message, segment_len)
    }

    /// Receives one more message in the same batch; returns all that the batch delivers.
    fn go_on(
        &mut self,
        via: Via,
        source: SocketAddr,
        message: &[u8],
        segment_len: Option<usize>,
    ) -> Vec<Vec<u8>> {
        let (mut memory, place) = (message.to_vec(), 0..message.len());
        let Self { inbound, fib, .. } = self;
        inbound.handle(fib, via, source, &mut memory, place, segment_len, self.now_ns);
        let deliveries = inbound.deliveries();
        let places = deliveries.iter().flat_map(|delivery| deliveries.packets(delivery));
        places.filter_map(|place| memory.get(place).map(<[u8]>::to_vec)).collect()
    }

    /// Takes a plain datagram in a batch of its own; returns how many are delivered.
    fn receive_plain(&mut self, source: Ipv4Addr, datagram: &[u8]) -> usize {
        self.inbound.clear();
        self.go_on(Via::Plain, (source, 8285).into(), datagram, None).len()
    }

    /// What the inbound half has dropped, by reason.
    fn refused(&self) -> Vec<(DropReason, u64)> {
        drops(self.inbound.counters())
    }

    /// What the outbound half of the first worker has dropped, by reason.
    fn dropped(&self) -> Vec<(DropReason, u64)> {
        drops(self.outbound[0].counters())
    }
}

fn drops(counters: &crate::counters::WorkerCounters) -> Vec<(DropReason, u64)> {
    let all = DropReason::ALL.iter().map(|reason| (*reason, counters.drops(*reason).read()));
    all.filter(|(_, count)| *count > 0).collect()
}

/// Takes what is in the batch, as if it were sent. All of it must be for the sockets of encryption.
fn taken(outbound: &mut Outbound) -> Vec<Vec<u8>> {
    let (plain, esp) = outbound.batch().queues().split_at(outbound.batch().first_for_esp());
    assert!(plain.iter().all(|queue| queue.trains().is_empty()));
    let datagrams = esp.iter().flat_map(|queue| queue.datagrams_from(0, 0));
    let sent = datagrams.map(|datagram| datagram.payload.to_vec()).collect();
    outbound.clear();
    sent
}

/// One direction of a handshake, whose number makes its keys and its SPIs.
fn direction(handshake: u32, lanes: u8, agreed_ns: u64) -> Direction {
    let mut secret = [0x5a; 32];
    secret[..4].copy_from_slice(&handshake.to_be_bytes());
    Direction {
        secret: Secret::new(&secret),
        provider: Provider::AwsLc,
        cipher: Cipher::Aes128Gcm,
        base: SpiBase::of_random(handshake),
        lanes,
        agreed_ns,
    }
}

/// What a handshake gave to the side that sends, and to the one that receives.
struct Keys {
    sealing: Arc<SealingSet>,
    opening: Arc<OpeningSet>,
}

/// Makes keys for what `from`, number `number`, sends to `to`, number `peer`, by its own claim.
fn keys_by(
    handshake: u32,
    (from, number): (&Node, u8),
    (to, peer): (&Node, u8),
    claimed: Claim,
) -> Keys {
    let lanes = from.outbound.len() as u8;
    let made = || direction(handshake, lanes, from.now_ns);
    let set = SealingSet::new(SpiBase::of_random(handshake + 1), claim(peer), made());
    let opening = OpeningSet::new(to.peer(number), claimed, made());
    Keys { sealing: Arc::new(set), opening: to.sad.install(opening) }
}

/// The same, and seals by them.
fn connect(handshake: u32, from: (&Node, u8), to: (&Node, u8)) -> Keys {
    let keys = keys_by(handshake, from, to, claim(from.1));
    from.0.peer(to.1).seal_by(&keys.sealing, endpoint(to.1));
    keys
}

/// Two hosts, 1 and 2, of which the first has keys to send to the second.
fn pair() -> (Node, Node, Keys) {
    let (a, b) = (Node::new(1, &[2]), Node::new(2, &[1]));
    let keys = connect(7, (&a, 1), (&b, 2));
    (a, b, keys)
}

/// A UDP packet of `len` bytes from a container of host 1 to one of host 2.
fn to_b(len: usize) -> Vec<u8> {
    let mut packet = packet([10, 5, 1, 2], [10, 5, 2, 2], 64, len);
    if len >= 28 {
        let udp_len = (len - 20) as u16;
        packet[24..26].copy_from_slice(&udp_len.to_be_bytes());
        fix_checksums(&mut packet);
    }
    packet
}

/// A TCP super-packet with that payload, and what the device says of it.
fn super_packet(payload: &[u8], segment_len: u16, v6: bool) -> (VnetHeader, Vec<u8>) {
    let mut packet = transport_packet(ip::PROTOCOL_TCP, &[], payload);
    packet[12..16].copy_from_slice(&[10, 5, 1, 2]);
    packet[16..20].copy_from_slice(&[10, 5, 2, 2]);
    let (mut packet, vnet) = match v6 {
        true => (over_ipv6(&packet), vnet(Gso::TcpV6, segment_len, 40)),
        false => (packet, vnet(Gso::TcpV4, segment_len, 20)),
    };
    crate::testing::make_partial(&vnet, &mut packet);
    (vnet, packet)
}

/// A UDP super-packet of `count` segments with payloads of ten bytes, each a number.
fn numbered(count: u32) -> (VnetHeader, Vec<u8>) {
    let mut packet = to_b(28);
    packet.extend((0..count).flat_map(|number| [&[0; 6][..], &number.to_be_bytes()].concat()));
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let vnet = vnet(Gso::UdpL4, 10, 20);
    crate::testing::make_partial(&vnet, &mut packet);
    (vnet, packet)
}

/// The numbers in the packets of [`numbered`].
fn numbers(packets: &[Vec<u8>]) -> Vec<u32> {
    packets.iter().map(|packet| u32::from_be_bytes(packet[34..38].try_into().unwrap())).collect()
}

/// SPI and lower half of the sequence number of a datagram.
fn head(datagram: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(datagram[at..at + 4].try_into().unwrap());
    (word(0), word(4))
}
