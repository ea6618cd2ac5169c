//! Hosts on a network that loses, doubles and reorders, in virtual time. Test code only.
//!
//! ESP is played: a datagram carries the key it was sealed with, and opens where the same key is
//! installed. What must never happen is checked as it would happen, in `seal` and `opened`.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::{Seeded, toy};
use crate::cipher::Ciphers;
use crate::key::{Identity, PublicKey};
use crate::node::{
    END_NS, MOST_CONFIRMED, MOST_UNCONFIRMED, Moment, Node, Output, Record, Refusal, SaSet, SetId,
    Settings, Wait,
};
use crate::noise::{self, Suite};
use crate::payload::{Claim, Timestamp};
use crate::psk::Psks;

pub(crate) const SECOND: u64 = 1_000_000_000;
/// The time of day when a world begins.
pub(crate) const EPOCH_NS: u64 = 1_790_000_000 * SECOND;

/// What a datagram is.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Handshake(Vec<u8>),
    /// The sender, the SPI base, the key, the sequence number, and what is inside: a packet's
    /// destination, or nothing.
    Esp {
        sender: usize,
        spi: u32,
        key: [u8; 32],
        number: u64,
        data: Option<usize>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) content: Content,
}

/// What the network does to datagrams, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) delay_ns: u64,
}

struct Sas {
    set: SaSet,
    made_ns: u64,
    sealed: u64,
    opened: BTreeSet<u64>,
}

pub(crate) struct Host {
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
    pub(crate) node: Node,
    pub(crate) settings: Settings,
    pub(crate) wall_ns: u64,
    sets: BTreeMap<SetId, Sas>,
    ended: BTreeMap<SetId, u64>,
    sealing: BTreeMap<PublicKey, SetId>,
    waiting: BTreeMap<PublicKey, VecDeque<usize>>,
    /// Packets that came, by sender.
    pub(crate) received: Vec<u64>,
    /// Confirmed events, in order.
    pub(crate) confirmed: Vec<(PublicKey, SocketAddr, Claim)>,
    pub(crate) refused: Vec<Refusal>,
    pub(crate) gave_up: usize,
    pub(crate) dummies: usize,
    random: Seeded,
}

pub(crate) struct World {
    pub(crate) now_ns: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) faults: Faults,
    pub(crate) random: Seeded,
    /// Datagrams under way, by when they come.
    pub(crate) net: BTreeMap<(u64, u64), Datagram>,
    serial: u64,
    sealed: HashSet<([u8; 32], u64)>,
    /// Handshake messages sent.
    pub(crate) messages: u64,
    pub(crate) queued: usize,
    /// Every handshake message sent, while this is on.
    pub(crate) tap: Option<Vec<Datagram>>,
    suite: Suite,
}

fn address(index: usize) -> SocketAddr {
    ([192, 0, 2, index as u8 + 1], 8286).into()
}

pub(crate) fn claim(index: usize) -> Claim {
    Claim { v4: Some(([10, 5, index as u8, 0].into(), 24)), v6: None }
}

impl World {
    /// Hosts that know each other, by the quick suite.
    pub(crate) fn new(count: usize, seed: u64) -> Self {
        Self::with(count, seed, toy::suite, toy::identity)
    }

    /// The same by the cryptography in use.
    pub(crate) fn real(count: usize, seed: u64) -> Self {
        Self::with(count, seed, noise::suite, |private| {
            Identity::new(Zeroizing::new(private)).unwrap()
        })
    }

    fn with(count: usize, seed: u64, suite: Suite, identity: fn([u8; 32]) -> Identity) -> Self {
        let mut random = Seeded::new(seed);
        let hosts = (0..count).map(|index| {
            let identity = identity(crate::random(&mut random));
            let settings = Settings {
                identity: identity.clone(),
                psks: Psks::default(),
                network: "/coreos.com/network".to_owned(),
                ciphers: Ciphers::Auto { has_aes: true },
                instance: crate::random(&mut random),
                lanes: 2,
                claim: claim(index),
                keepalive_ns: None,
            };
            Host {
                identity,
                address: address(index),
                node: Node::with_suite(settings.clone(), suite),
                settings,
                wall_ns: EPOCH_NS,
                sets: BTreeMap::new(),
                ended: BTreeMap::new(),
                sealing: BTreeMap::new(),
                waiting: BTreeMap::new(),
                received: vec![0; count],
                confirmed: Vec::new(),
                refused: Vec::new(),
                gave_up: 0,
                dummies: 0,
                random: Seeded::new(random.next()),
            }
        });
        let mut world = Self {
            hosts: hosts.collect(),
            now_ns: SECOND,
            faults: Faults::default(),
            random: Seeded::new(seed ^ 0x5555),
            net: BTreeMap::new(),
            serial: 0,
            sealed: HashSet::new(),
            messages: 0,
            queued: 0,
            tap: None,
            suite,
        };
        (0..count).for_each(|here| world.introduce(here));
        world
    }

    pub(crate) fn key(&self, host: usize) -> PublicKey {
        self.hosts[host].identity.public()
    }

    /// Lets a host do something, then does what its node wants done.
    pub(crate) fn at<T>(
        &mut self,
        host: usize,
        work: impl FnOnce(&mut Node, &mut Moment<'_>) -> T,
    ) -> T {
        let here = &mut self.hosts[host];
        let wall = Timestamp::of_unix_ns(here.wall_ns + self.now_ns);
        let mut moment = Moment { now_ns: self.now_ns, wall, random: &mut here.random };
        let done = work(&mut here.node, &mut moment);
        self.drain(host);
        done
    }

    fn introduce(&mut self, here: usize) {
        for there in (0..self.hosts.len()).filter(|there| *there != here) {
            self.tell(here, there);
        }
    }

    /// Tells a host what another one's record says.
    pub(crate) fn tell(&mut self, here: usize, there: usize) {
        let (key, host) = (self.key(there), &self.hosts[there]);
        let instance = Some(host.settings.instance);
        let record = Record { endpoint: Some(host.address), instance };
        self.at(here, |node, at| node.put_peer(key, record, at));
    }

    /// Starts a host anew, with a clock that may be wrong. Nobody is told.
    pub(crate) fn restart(&mut self, host: usize, wall_ns: u64) {
        let instance = crate::random(&mut self.random);
        let here = &mut self.hosts[host];
        here.settings.instance = instance;
        here.wall_ns = wall_ns;
        here.node = Node::with_suite(here.settings.clone(), self.suite);
        here.sets.clear();
        here.ended.clear();
        here.sealing.clear();
        here.waiting.clear();
        self.introduce(host);
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].node.next_output() {
            let from = self.hosts[host].address;
            match output {
                Output::Send { to, message } => {
                    self.messages += 1;
                    let datagram = Datagram { from, to, content: Content::Handshake(message) };
                    self.tap.iter_mut().for_each(|tap| tap.push(datagram.clone()));
                    self.post(datagram);
                }
                Output::Install(set) => self.install(host, *set),
                Output::Confirmed { peer, set, sealing, endpoint, claim, .. } => {
                    let here = &mut self.hosts[host];
                    assert_eq!(here.sets[&set].set.peer, peer);
                    here.confirmed.push((peer, endpoint, claim));
                    here.sealing.insert(peer, sealing);
                }
                Output::End { peer, set, sealing } => {
                    let here = &mut self.hosts[host];
                    assert!(here.sets.remove(&set).is_some(), "a set ends once");
                    here.ended.insert(set, self.now_ns);
                    match sealing {
                        Some(sealing) => here.sealing.insert(peer, sealing),
                        None => here.sealing.remove(&peer),
                    };
                }
                Output::Release { peer, packets } => {
                    let held = self.hosts[host].waiting.remove(&peer).unwrap_or_default();
                    assert_eq!(held.len(), packets);
                    held.into_iter().for_each(|there| self.send(host, there));
                }
                Output::GaveUp { peer, packets } => {
                    let held = self.hosts[host].waiting.remove(&peer).unwrap_or_default();
                    assert_eq!(held.len(), packets);
                    self.hosts[host].gave_up += 1;
                }
                Output::Dummy { set, .. } => {
                    self.hosts[host].dummies += 1;
                    self.seal(host, set, None);
                }
            }
        }
    }

    fn install(&mut self, host: usize, set: SaSet) {
        let here = &mut self.hosts[host];
        let rested = here.ended.get(&set.id).is_none_or(|end| self.now_ns >= end + END_NS);
        assert!(rested && !here.sets.contains_key(&set.id), "an SPI base is one set's alone");
        let (peer, id) = (set.peer, set.id);
        let sas = Sas { set, made_ns: self.now_ns, sealed: 0, opened: BTreeSet::new() };
        here.sets.insert(id, sas);
        let of_peer = here.sets.values().filter(|sas| sas.set.peer == peer).count();
        // One more for a moment, since the new one is announced before the old one ends.
        assert!(of_peer <= MOST_CONFIRMED + MOST_UNCONFIRMED + 1, "{of_peer} sets of one peer");
    }

    /// Puts a datagram on the network, which does to it what it does.
    pub(crate) fn post(&mut self, datagram: Datagram) {
        let copies = 1 + u64::from(self.random.below(100) < self.faults.doubled);
        for _ in 0..copies {
            if self.random.below(100) >= self.faults.lost {
                let delay_ns = 1_000_000 + self.random.below(self.faults.delay_ns + 1);
                self.serial += 1;
                self.net.insert((self.now_ns + delay_ns, self.serial), datagram.clone());
            }
        }
    }

    /// A packet of a host for another one.
    pub(crate) fn send(&mut self, host: usize, there: usize) {
        let peer = self.key(there);
        if let Some(set) = self.hosts[host].sealing.get(&peer).copied() {
            self.seal(host, set, Some(there));
            self.at(host, |node, at| node.sent(set, at));
            return;
        }
        match self.at(host, |node, at| node.wants(&peer, 1_000, at)) {
            Wait::Held { dropped } => {
                let held = self.hosts[host].waiting.entry(peer).or_default();
                held.drain(..dropped);
                held.push_back(there);
            }
            Wait::Go => panic!("the node has a set that it has not announced"),
            Wait::Refused => {}
        }
    }

    fn seal(&mut self, host: usize, set: SetId, data: Option<usize>) {
        let now_ns = self.now_ns;
        let here = &mut self.hosts[host];
        let sas = here.sets.get_mut(&set).expect("sealing under a set that is there");
        assert!(now_ns <= sas.made_ns + END_NS, "a set seals for 180 s");
        sas.sealed += 1;
        let (key, spi, number) = (*sas.set.send_key, sas.set.send_spi_base, sas.sealed);
        assert!(self.sealed.insert((key, number)), "no key and number seal twice");
        let to = here.node.endpoint(&sas.set.peer).expect("a peer with a set has a place");
        let content = Content::Esp { sender: host, spi, key, number, data };
        let from = here.address;
        self.post(Datagram { from, to, content });
    }

    fn arrive(&mut self, datagram: Datagram) {
        let Some(host) = self.hosts.iter().position(|host| host.address == datagram.to) else {
            return;
        };
        match datagram.content {
            Content::Handshake(message) => {
                let queued = self.queued;
                let done =
                    self.at(host, |node, at| node.message(&message, datagram.from, queued, at));
                self.hosts[host].refused.extend(done.err());
            }
            Content::Esp { sender, spi, key, number, data } => {
                let here = &mut self.hosts[host];
                let Some(sas) = here.sets.get_mut(&SetId(spi)) else {
                    self.at(host, |node, at| node.unknown_spi(datagram.from, at));
                    return;
                };
                if *sas.set.receive_key == key && sas.opened.insert(number) {
                    self.opened(host, sender, SetId(spi), data);
                }
            }
        }
    }

    fn opened(&mut self, host: usize, sender: usize, set: SetId, data: Option<usize>) {
        let sender_key = self.key(sender);
        let here = &mut self.hosts[host];
        let sas = &here.sets[&set];
        assert!(self.now_ns <= sas.made_ns + END_NS, "a set opens for 180 s");
        assert_eq!(sas.set.peer, sender_key, "a packet comes from who its SA says");
        if let Some(there) = data {
            assert_eq!(there, host, "a packet comes to who it is for");
            here.received[sender] += 1;
        }
        self.at(host, |node, at| node.heard(set, data.is_some(), at));
    }

    /// Returns when anything happens next.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let deadlines = self.hosts.iter().filter_map(|host| host.node.next_deadline());
        let next = deadlines.chain(self.net.keys().next().map(|(at_ns, _)| *at_ns)).min();
        next.map(|next_ns| next_ns.max(self.now_ns))
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span_ns: u64) {
        let until_ns = self.now_ns + span_ns;
        while let Some(next_ns) = self.next_ns().filter(|next_ns| *next_ns <= until_ns) {
            self.now_ns = next_ns;
            while let Some(entry) = self.net.first_entry().filter(|entry| entry.key().0 <= next_ns)
            {
                let datagram = entry.remove();
                self.arrive(datagram);
            }
            for host in 0..self.hosts.len() {
                let due = self.hosts[host].node.next_deadline();
                if due.is_some_and(|due_ns| due_ns <= next_ns) {
                    self.at(host, |node, at| node.tick(at));
                    let due = self.hosts[host].node.next_deadline();
                    assert!(
                        due.is_none_or(|due_ns| due_ns > next_ns),
                        "a tick does all that is due"
                    );
                }
            }
        }
        self.now_ns = until_ns;
    }

    /// Returns how many sets a host holds.
    pub(crate) fn sets(&self, host: usize) -> usize {
        self.hosts[host].sets.len()
    }
}
