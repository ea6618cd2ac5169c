//! Hosts in virtual time, over real sockets: what takes minutes, and both ends of every datagram.
//!
//! Loopback hands a datagram over before the call that sends it returns, so that nobody waits.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use tunneld_core::adjacency::{OuterDf, Parameters};
use tunneld_core::encapsulation::{Encapsulation, Meanwhile, Via};
use tunneld_core::fib::{Fib, Settings as FibSettings, SourceCheck};
use tunneld_core::outbound::Outbound;
use tunneld_core::prefix::Prefix;
use tunneld_core::transaction::{Change, Tables, TargetName};
use tunneld_core::waiting::{Room, Waiting};
use tunneld_esp::cipher::Cipher;
use tunneld_handshake::key::PublicKey;
use tunneld_handshake::node::{Record, Refusal};
use tunneld_handshake::payload::Timestamp;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;
use tunneld_wire::{ip, ipv4};

use super::exits::Lane;
use super::*;
use crate::descriptor::duplicate;
use crate::errands::{Errands, Fate, Packet};
use crate::event::Event;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = SECOND / 1_000;
const START: u64 = 1_000 * SECOND;

/// A host without threads: number n has the subnet 10.5.n.0/24.
struct Host {
    number: u8,
    keying: Keying,
    key: PublicKey,
    socket: UdpSocket,
    outbound: Outbound,
    inbound: Inbound,
    waiting: Arc<Waiting>,
    errands: Arc<Errands>,
    events: Arc<Events>,
    fib: Fib,
    now_ns: u64,
    looked_ns: u64,
    /// What came out, by the number in it.
    delivered: Vec<u32>,
    /// Packets whose senders were told.
    told: usize,
}

fn subnet(number: u8) -> Prefix {
    Prefix::new(Ipv4Addr::new(10, 5, number, 0), 24).unwrap()
}

fn packet(from: u8, to: u8, number: u32) -> Vec<u8> {
    let [source, destination] = [from, to].map(|host| Ipv4Addr::new(10, 5, host, 2));
    let header = ipv4::Header::of_own(ip::PROTOCOL_UDP, source, destination, 60);
    let mut packet = header.emit().to_vec();
    packet.extend([0; 36]);
    packet.extend(number.to_be_bytes());
    packet
}

impl Host {
    fn new(number: u8, keepalive_ns: Option<u64>) -> Self {
        let socket = Self::bound();
        let identity = Identity::new(Zeroizing::new([number; 32])).unwrap();
        let key = identity.public();
        let encryption = Encryption {
            identity,
            psks: vec![Zeroizing::new(vec![7; 32])],
            network: "/n".to_owned(),
            ciphers: Ciphers::Only(Cipher::ChaCha20Poly1305),
            provider: Provider::AwsLc,
            instance: [number; 8],
            claim: Claim { v4: Some((Ipv4Addr::new(10, 5, number, 0), 24)), v6: None },
            keepalive_ns,
        };
        let errands = Arc::<Errands>::default();
        let [pulse, own] = [(); 2].map(|()| Arc::new(Pulse::new().unwrap()));
        let exits = Exits {
            sockets: [Some(duplicate("ESP", socket.as_raw_fd()).unwrap()), None],
            lanes: vec![Lane { errands: Arc::clone(&errands), pulse }],
        };
        let (events, waiting) = (Arc::new(Events::new().unwrap()), Arc::<Waiting>::default());
        let keying = Keying::new(encryption, exits, Arc::clone(&events), own, 8286).unwrap();
        let outbound = Outbound::new(0, Arc::default()).leaving_in(Arc::clone(&waiting));
        let inbound = Inbound::new(0, Arc::default()).opening(Arc::clone(&keying.sad));
        let (now_ns, looked_ns, delivered, told) = (START, START, Vec::new(), 0);
        Self {
            number,
            keying,
            key,
            socket,
            outbound,
            inbound,
            waiting,
            errands,
            events,
            fib: Fib::empty(),
            now_ns,
            looked_ns,
            delivered,
            told,
        }
    }

    fn bound() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// Speaks by another socket from now on; returns the one before.
    fn moves_to(&mut self, socket: UdpSocket) -> UdpSocket {
        let own = duplicate("ESP", socket.as_raw_fd()).unwrap();
        self.on(|state, _| state.exits.sockets[0] = Some(own));
        std::mem::replace(&mut self.socket, socket)
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn on<T>(&self, work: impl FnOnce(&mut State, &mut Moment<'_>) -> T) -> T {
        let mut state = self.keying.lock();
        let (now_ns, random) = (self.now_ns, &mut moment::Kernel);
        let wall = Timestamp::of_unix_ns(now_ns);
        work(state.as_mut().unwrap(), &mut Moment { now_ns, wall, random })
    }

    fn knows(&mut self, peer: u8, key: PublicKey, endpoint: SocketAddr) {
        let way = Encapsulation::Esp { key: key.0, subnet: subnet(peer) };
        let parameters = Parameters {
            encapsulation: way,
            endpoint,
            mtu_bytes: 1_438,
            outer_df: OuterDf::Kernel,
            meanwhile: Meanwhile::Nothing,
        };
        let change = Change {
            settings: Some(FibSettings {
                source_check: SourceCheck::Strict,
                device_mtu_bytes: 1_438,
                icmp_source: Some(Ipv4Addr::new(10, 5, self.number, 0)),
                icmp_source_v6: None,
                vtep: None,
            }),
            put_adjacencies: vec![("peer".into(), parameters)],
            put_entries: vec![
                (subnet(self.number), TargetName::Local),
                (subnet(peer), TargetName::Adjacency("peer".into())),
            ],
            ..Change::default()
        };
        let mut tables = Tables::new(1).sealing(Arc::clone(&self.keying.sad));
        self.fib = tables.commit(change).unwrap();
        let record = Record { endpoint: Some(endpoint), instance: None };
        self.on(|state, at| state.put(key, record, at));
    }

    fn send(&mut self, to: u8, number: u32) {
        let packet = packet(self.number, to, number);
        self.outbound.handle(&self.fib, VnetHeader::default(), &packet, self.now_ns);
        self.flush();
    }

    /// Does what the outbound thread does after a batch.
    fn flush(&mut self) {
        for datagram in self.outbound.batch().datagrams() {
            self.socket.send_to(datagram.payload, datagram.endpoint).unwrap();
        }
        self.told += self.outbound.replies().iter().count();
        self.outbound.clear();
        if self.outbound.take_left() {
            let mut room = Room::default();
            self.waiting.take(&mut room);
            room.iter().for_each(|waiter| self.on(|state, at| state.wants(0, &waiter, at)));
        }
    }

    /// Does what its threads do; returns whether there was anything.
    fn turn(&mut self) -> bool {
        let mut memory = [0; 2_048];
        let mut is_busy = false;
        while let Ok((len, from)) = self.socket.recv_from(&mut memory) {
            is_busy = true;
            let Self { inbound, fib, .. } = self;
            inbound.handle(fib, Via::Esp, from, &mut memory, 0..len, None, self.now_ns);
            let batch = self.inbound.deliveries();
            for delivery in batch.iter() {
                let places = batch.packets(delivery).map(|place| place.end);
                self.delivered.extend(
                    places.map(|end| u32::from_be_bytes(memory[end - 4..end].try_into().unwrap())),
                );
            }
            self.keying.take_from(&self.inbound);
            self.inbound.clear();
            while let Some((message, queued)) = self.keying.intake.take() {
                self.on(|state, at| state.message(message.bytes(), message.from, queued, at));
            }
            for from in self.keying.intake.take_unknown() {
                self.on(|state, at| state.on_node(at, |node, at| node.unknown_spi(from, at)));
            }
            if self.keying.intake.take_news() {
                self.on(State::look);
            }
        }
        self.on(|state, at| state.on_node(at, Node::tick));
        if self.now_ns >= self.looked_ns + 200 * MS {
            self.looked_ns = self.now_ns;
            self.on(State::look);
        }
        for (fate, packet) in self.errands.take().packets {
            is_busy = true;
            match fate {
                Fate::Goes => {
                    self.outbound.again(&self.fib, packet.vnet, &packet.bytes, self.now_ns);
                }
                Fate::IsDropped => self.outbound.give_up(&self.fib, &packet.bytes, self.now_ns),
            }
            self.flush();
        }
        is_busy
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        let halves = [self.outbound.counters(), self.inbound.counters(), &*self.keying.counters];
        let sum = |reason| halves.iter().map(|half| half.drops(reason).read()).sum();
        let all = DropReason::ALL.iter().map(|reason| (*reason, sum(*reason)));
        all.filter(|(_, count)| *count > 0).collect()
    }

    fn peer(&self) -> Security {
        self.on(|state, at| state.security(at.now_ns)).remove(0)
    }
}

/// Lets time pass for hosts, in steps of a tenth of a second.
fn run(hosts: &mut [&mut Host], duration_ns: u64) {
    let end_ns = hosts[0].now_ns + duration_ns;
    loop {
        while hosts.iter_mut().any(|host| host.turn()) {}
        if hosts[0].now_ns >= end_ns {
            return;
        }
        let now_ns = end_ns.min(hosts[0].now_ns + 100 * MS);
        hosts.iter_mut().for_each(|host| host.now_ns = now_ns);
    }
}

fn pair() -> (Host, Host) {
    pair_with(None)
}

fn pair_with(keepalive_ns: Option<u64>) -> (Host, Host) {
    let (mut a, mut b) = (Host::new(1, keepalive_ns), Host::new(2, None));
    let (of_a, of_b) = ((a.key, a.address()), (b.key, b.address()));
    a.knows(2, of_b.0, of_b.1);
    b.knows(1, of_a.0, of_a.1);
    (a, b)
}

/// The rules of the specification: an SA seals 180 s at most, and there are four sets at most.
#[test]
fn keys_change_in_time_and_every_packet_of_ten_minutes_arrives_once() {
    let (mut a, mut b) = pair();
    let mut ages = Vec::new();
    for number in 0..600 {
        a.send(2, number);
        b.send(1, number);
        run(&mut [&mut a, &mut b], SECOND);
        for host in [&a, &b] {
            let peer = host.peer();
            assert!(peer.age_ns.is_some_and(|age_ns| age_ns < 180 * SECOND), "{peer:?}");
            assert!(peer.sets <= 4, "{peer:?}");
            ages.push(peer.age_ns.unwrap());
        }
    }
    assert!(ages.iter().any(|age_ns| *age_ns > 100 * SECOND), "and are kept for as long");
    assert_eq!(a.delivered, (0..600).collect::<Vec<_>>());
    assert_eq!(b.delivered, (0..600).collect::<Vec<_>>());
    assert_eq!((a.drops(), b.drops()), (Vec::new(), Vec::new()));
}

#[test]
fn a_responder_seals_as_soon_as_it_has_its_proof() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], 0);
    assert_eq!((b.peer().state, &b.delivered), (KeyState::Confirmed, &vec![1]));
    b.send(1, 2);
    run(&mut [&mut a, &mut b], 0);
    assert_eq!(a.delivered, [2]);
    // What is known is no news: nobody is woken for every batch.
    a.send(2, 3);
    let mut memory = [0; 2_048];
    let (len, from) = b.socket.recv_from(&mut memory).unwrap();
    b.inbound.handle(&b.fib, Via::Esp, from, &mut memory, 0..len, None, b.now_ns);
    assert!(!b.inbound.proves());
}

#[test]
fn keys_that_nobody_needs_are_gone_after_180_s_and_others_come_with_the_next_packet() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], 100 * MS);
    a.events.drain();
    run(&mut [&mut a, &mut b], 179 * SECOND);
    assert_eq!((a.peer().state, a.events.drain()), (KeyState::Confirmed, Vec::new()));
    run(&mut [&mut a, &mut b], SECOND);
    for host in [&a, &b] {
        assert_eq!((host.peer().state, host.peer().sets), (KeyState::Missing, 0));
        assert!(host.events.drain().contains(&Event::KeysLost { key: host.peer().key }));
        assert!(!host.on(|state, _| state.has_sets()));
    }
    b.send(1, 2);
    run(&mut [&mut a, &mut b], 100 * MS);
    assert_eq!((a.delivered, b.delivered), (vec![2], vec![1]));
}

#[test]
fn who_does_not_answer_is_given_up_after_90_s_and_the_senders_of_what_waited_are_told() {
    let mut a = Host::new(1, None);
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let key = Host::new(2, None).key;
    a.knows(2, key, nobody.local_addr().unwrap());
    (0..70).for_each(|number| a.send(2, number));
    assert_eq!((a.peer().state, a.peer().waiting_packets), (KeyState::Handshake, 64));
    assert_eq!(a.drops(), [(DropReason::NoKeys, 6)]);
    // 90 s, a fifth more or less.
    run(&mut [&mut a], 71 * SECOND);
    assert_eq!((a.peer().waiting_packets, a.events.drain()), (64, Vec::new()));
    run(&mut [&mut a], 43 * SECOND);
    assert_eq!((a.peer().state, a.peer().waiting_packets), (KeyState::Missing, 0));
    assert_eq!(a.events.drain(), [Event::HandshakeGivenUp { key, packets: 64 }]);
    assert_eq!(a.drops(), [(DropReason::NoKeys, 70)]);
    assert_eq!(a.told, 50, "within the rate");
    assert!(a.peer().last_error.unwrap().starts_with("no answer to the handshake from 127.0.0.1:"));
    a.send(2, 71);
    assert_eq!(a.peer().state, KeyState::Handshake, "until there is a packet again");
}

#[test]
fn a_peer_that_moves_is_sent_to_where_it_proved_to_be() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], SECOND);
    let old = b.moves_to(Host::bound());
    b.on(|state, at| state.on_node(at, Node::renew));
    // What is still sent to the old place is lost, and the handshake begins within 2 s.
    run(&mut [&mut a, &mut b], 3 * SECOND);
    drop(old);
    a.send(2, 2);
    run(&mut [&mut a, &mut b], SECOND);
    assert_eq!((a.peer().endpoint, b.delivered.last()), (Some(b.address()), Some(&2)));
    // And where its record says that it is now, without a handshake.
    let (key, sets) = (b.key, a.peer().sets);
    b.moves_to(Host::bound());
    a.knows(2, key, b.address());
    a.send(2, 3);
    run(&mut [&mut a, &mut b], 0);
    assert_eq!((a.peer().sets, b.delivered.last()), (sets, Some(&3)));
}

#[test]
fn a_peer_that_started_anew_is_reached_after_one_round_trip() {
    let (mut a, mut old) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut old], SECOND);
    let mut new = Host::new(2, None);
    new.moves_to(old.socket);
    new.now_ns = a.now_ns;
    new.knows(1, a.key, a.address());
    a.send(2, 2);
    run(&mut [&mut a, &mut new], 0);
    assert_eq!(new.drops(), [(DropReason::EspUnknownSpi, 1)]);
    a.send(2, 3);
    run(&mut [&mut a, &mut new], 0);
    assert_eq!(new.delivered, [3]);
}

#[test]
fn two_hosts_that_have_nothing_to_say_are_silent() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], 30 * SECOND);
    let received = |host: &Host| host.inbound.counters().packets.read();
    let before = (received(&a), received(&b));
    run(&mut [&mut a, &mut b], 100 * SECOND);
    assert_eq!((received(&a), received(&b)), before);
}

#[test]
fn a_dummy_every_so_many_seconds_keeps_a_nat_open_and_keys_no_longer() {
    let (mut a, mut b) = pair_with(Some(20 * SECOND));
    a.send(2, 1);
    run(&mut [&mut a, &mut b], 170 * SECOND);
    // The handshake, one packet, at most a dummy that says that b is alive; then dummies alone.
    let received = b.inbound.counters().packets.read();
    assert!((8..=14).contains(&received), "{received} datagrams, 7 to 11 of them dummies");
    run(&mut [&mut a, &mut b], 20 * SECOND);
    assert_eq!((a.peer().sets, b.peer().sets, b.delivered), (0, 0, vec![1]));
    assert_eq!(a.drops(), []);
}

#[test]
fn what_is_dropped_from_trust_is_neither_opened_nor_sealed_for_and_nothing_of_it_is_kept() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    b.send(1, 1);
    run(&mut [&mut a, &mut b], SECOND);
    // Sealed before, on the way still.
    b.send(1, 2);
    let key = b.key;
    a.on(|state, at| state.drop(&key, at));
    a.send(2, 2);
    run(&mut [&mut a, &mut b], 2 * SECOND);
    assert_eq!((&a.delivered, &b.delivered), (&vec![1], &vec![1]));
    assert_eq!(a.drops(), [(DropReason::NoKeys, 1), (DropReason::EspUnknownSpi, 1)]);
    a.on(|state, _| {
        assert!(state.peers.is_empty() && state.pairs.is_empty() && !state.has_sets());
    });
    assert_eq!((a.told, Arc::strong_count(&a.keying.sad.peer(key.0))), (1, 2), "and the FIB's");
}

#[test]
fn nothing_is_left_after_the_end() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], SECOND);
    let protected = a.keying.sad.peer(b.key.0);
    a.events.drain();
    a.keying.end();
    assert!(a.keying.lock().is_none());
    assert_eq!((a.events.drain(), Arc::strong_count(&protected)), (Vec::new(), 2));
    a.outbound.handle(&a.fib, VnetHeader::default(), &packet(1, 2, 2), a.now_ns);
    assert_eq!(a.outbound.batch().datagrams().count(), 0, "nothing seals");
    a.keying.end();
    assert!(a.keying.on_call(|_, _| ()).is_none());
}

#[test]
fn a_claim_is_told_when_it_is_news() {
    let (mut a, mut b) = pair();
    a.send(2, 1);
    run(&mut [&mut a, &mut b], SECOND);
    let claim = |number| Claim { v4: Some((Ipv4Addr::new(10, 5, number, 0), 24)), v6: None };
    a.on(|state, at| state.set_claim(claim(1), at));
    run(&mut [&mut a, &mut b], 3 * SECOND);
    assert_eq!(b.peer().sets, 1);
    a.on(|state, at| state.set_claim(claim(9), at));
    run(&mut [&mut a, &mut b], 3 * SECOND);
    assert_eq!((b.peer().sets, b.peer().claim.ipv4), (2, Some(subnet(9))));
}

#[test]
fn packets_go_back_to_the_workers_they_came_by_in_their_order() {
    let lane = || Lane { errands: Arc::default(), pulse: Arc::new(Pulse::new().unwrap()) };
    let exits = Exits { sockets: [None, None], lanes: vec![lane(), lane(), lane()] };
    let packet = |number: u8| Packet { vnet: VnetHeader::default(), bytes: Box::new([number]) };
    let packets = [(2, 1), (0, 2), (2, 3), (2, 4), (0, 5)];
    exits.hand_back(
        Fate::Goes,
        packets.map(|(worker, number)| (worker, packet(number))).into_iter(),
    );
    let by_worker = exits.lanes.iter().map(|lane| {
        let packets = lane.errands.take().packets;
        packets.iter().map(|(_, packet)| packet.bytes[0]).collect::<Vec<_>>()
    });
    assert_eq!(by_worker.collect::<Vec<_>>(), [vec![2, 5], vec![], vec![1, 3, 4]]);
}

#[test]
fn each_refusal_is_counted_as_what_it_is() {
    use Refusal::*;
    let all = [
        (Header, "handshake_header"),
        (Length, "handshake_length"),
        (Mac1, "handshake_mac1"),
        (Cookie, "handshake_cookie"),
        (Rate, "handshake_rate"),
        (Noise, "handshake_noise"),
        (Payload, "handshake_payload"),
        (UnknownIdentity, "handshake_unknown_identity"),
        (Psk, "psk_unknown"),
        (Cipher, "handshake_cipher"),
        (Old, "handshake_old"),
        (Replayed, "handshake_replayed"),
        (TooSoon, "handshake_too_soon"),
        (UnknownIndex, "handshake_unknown_index"),
    ];
    for (refusal, label) in all {
        assert_eq!(state::reason_of(refusal).label(), label);
    }
}
