//! `wireguard PEER`: this crate's handshake with real wireguard-go, by WireGuard's own prologue,
//! labels and layout.
//!
//! PEER is the program of testbed/wireguard. Both sides begin once and rekey once; data goes
//! both ways under each set of keys. Ends with 0 when all of it was so, and says what was not.
//! Of this crate it takes the Noise part and its resolver; the profile is here alone.
//!
//! Source: WireGuard whitepaper §5.4.

// A program for a test: sockets, clock and processes are its business.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use blake2::digest::Mac;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest};
use tunneld_handshake::key::{Identity, PublicKey};
use tunneld_handshake::noise::{self, Initiator, Responder, Split, Start};
use tunneld_handshake::payload::Timestamp;
use zeroize::Zeroizing;

const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const PSK: [u8; 32] = [0x5a; 32];
/// How long one answer may take; what does not come is asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: usize = 60;

fn mac1(receiver: &PublicKey, before: &[u8]) -> [u8; 16] {
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.0).finalize();
    let mut mac = <Blake2sMac<U16> as Mac>::new_from_slice(&key).unwrap();
    mac.update(before);
    mac.finalize().into_bytes().into()
}

fn random() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *bytes).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// wireguard-go, and what it prints.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Peer {
    fn start(program: &str) -> Self {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program of testbed/wireguard");
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let stdin = child.stdin.take();
        Self { child, stdin, lines }
    }

    fn configure(&mut self, lines: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        write!(stdin, "{lines}\n\n").unwrap();
    }

    /// Waits for a line that begins with a word, and returns the rest.
    fn said(&self, word: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).expect(word);
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Peer {
    /// The end of its input is the end of the program.
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Keys of one handshake, from this side.
struct Keys {
    seal: LessSafeKey,
    open: LessSafeKey,
    sent: u64,
    /// The peer's index, and the own one.
    receiver: [u8; 4],
    own: [u8; 4],
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Keys {
    fn new(seal: &[u8; 32], open: &[u8; 32], receiver: [u8; 4], own: [u8; 4]) -> Self {
        let key = |key: &[u8]| LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
        Self { seal: key(seal), open: key(open), sent: 0, receiver, own }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut text = packet.to_vec();
        text.resize(packet.len().next_multiple_of(16), 0);
        let mut message = [&[4, 0, 0, 0][..], &self.receiver, &self.sent.to_le_bytes()].concat();
        self.seal.seal_in_place_append_tag(nonce(self.sent), Aad::empty(), &mut text).unwrap();
        self.sent += 1;
        message.extend(text);
        message
    }

    fn open(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (head, text) = message.split_at_checked(16)?;
        if head[..4] != [4, 0, 0, 0] || head[4..8] != self.own {
            return None;
        }
        let number = u64::from_le_bytes(head[8..16].try_into().unwrap());
        let mut text = text.to_vec();
        let opened = self.open.open_in_place(nonce(number), Aad::empty(), &mut text).ok()?;
        Some(opened.to_vec())
    }
}

/// This end: a key, a socket, the peer's key and address.
struct End {
    identity: Identity,
    socket: UdpSocket,
    remote: PublicKey,
    address: SocketAddr,
    last_index: u32,
}

impl End {
    fn start(&self) -> Start<'_> {
        Start { identity: &self.identity, prologue: PROLOGUE, suite: noise::suite }
    }

    fn index(&mut self) -> [u8; 4] {
        self.last_index += 1;
        self.last_index.to_le_bytes()
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2048];
        let len = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    }

    /// Begins handshakes until one is answered; wireguard-go takes one in 20 ms.
    fn initiate(&mut self) -> Keys {
        for _ in 0..TRIES {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let timestamp = Timestamp::of_unix_ns(now.as_nanos() as u64).0;
            let own = self.index();
            let mut message = vec![1, 0, 0, 0];
            message.extend(own);
            message.resize(148, 0);
            let place = &mut message[8..116];
            let mut begun =
                Initiator::new(self.start(), &self.remote, random(), &timestamp, place).unwrap();
            let mac = mac1(&self.remote, &message[..116]);
            message[116..132].copy_from_slice(&mac);
            self.socket.send_to(&message, self.address).unwrap();
            while let Some(answer) = self.receive() {
                if answer.len() != 92 || answer[0] != 2 || answer[8..12] != own {
                    continue;
                }
                assert_eq!(answer[60..76], mac1(&self.identity.public(), &answer[..60]));
                let wrong = begun.read(&[0; 32], &answer[12..60], &mut []);
                assert!(wrong.is_err(), "wireguard-go's answer opens without the PSK");
                let Split { from_initiator, from_responder } =
                    begun.read(&PSK, &answer[12..60], &mut []).expect("wireguard-go's answer");
                let receiver = answer[4..8].try_into().unwrap();
                return Keys::new(&from_initiator, &from_responder, receiver, own);
            }
        }
        panic!("wireguard-go answers no initiation");
    }

    /// Answers the next initiation.
    fn respond(&mut self) -> Keys {
        for _ in 0..TRIES {
            let Some(asked) = self.receive() else { continue };
            if asked.len() != 148 || asked[0] != 1 {
                continue;
            }
            assert_eq!(asked[116..132], mac1(&self.identity.public(), &asked[..116]));
            let mut timestamp = [0; 12];
            let read = Responder::new(self.start(), random(), &asked[8..116], &mut timestamp);
            let read = read.expect("wireguard-go's initiation");
            assert_eq!(read.remote(), self.remote);
            let (own, receiver) = (self.index(), asked[4..8].try_into().unwrap());
            let mut message = vec![2, 0, 0, 0];
            message.extend(own);
            message.extend(receiver);
            message.resize(92, 0);
            let Split { from_initiator, from_responder } =
                read.write(&PSK, &[], &mut message[12..60]).unwrap();
            let mac = mac1(&self.remote, &message[..60]);
            message[60..76].copy_from_slice(&mac);
            self.socket.send_to(&message, self.address).unwrap();
            return Keys::new(&from_responder, &from_initiator, receiver, own);
        }
        panic!("wireguard-go begins no handshake");
    }

    /// Sends a packet through the tunnel until its echo comes back under the same keys.
    fn echo(&self, peer: &Peer, keys: &mut Keys, mark: u8) {
        let packet = packet(mark);
        for _ in 0..TRIES {
            let message = keys.seal(&packet);
            self.socket.send_to(&message, self.address).unwrap();
            while let Some(message) = self.receive() {
                let Some(reply) = keys.open(&message) else { continue };
                // A keepalive is empty: the confirmation of a handshake that it began.
                if reply.is_empty() {
                    continue;
                }
                let expected = [&packet[..12], &packet[16..20], &packet[12..16], &packet[20..]];
                assert_eq!(reply[..packet.len()], expected.concat());
                assert_eq!(peer.said("packet"), hex(&packet));
                return;
            }
        }
        panic!("wireguard-go sends nothing back under the keys of handshake {mark}");
    }
}

/// A UDP packet of the tunnel, from this end's address in it to the peer's.
fn packet(mark: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, mark, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
    let sum =
        packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet.extend([0, 7, 0, 7, 0, 12, 0, 0, mark, mark, mark, mark]);
    packet
}

fn main() {
    let program = std::env::args().nth(1).expect("usage: wireguard PEER");
    let (identity, theirs) = (Identity::new(random()).unwrap(), random());
    let remote = Identity::new(theirs.clone()).unwrap().public();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let here = socket.local_addr().unwrap();

    let mut peer = Peer::start(&program);
    let own = hex(&identity.public().0);
    let member = format!("public_key={own}\npreshared_key={}\nallowed_ip=10.0.0.2/32", hex(&PSK));
    peer.configure(&format!("private_key={}\nlisten_port=0\n{member}", hex(&*theirs)));
    let port: u16 = peer.said("port").parse().unwrap();
    let address = ([127, 0, 0, 1], port).into();
    let mut end = End { identity, socket, remote, address, last_index: 0 };

    // This side begins, and again: wireguard-go takes the new keys for the old ones' place.
    for mark in 1..=2 {
        let mut keys = end.initiate();
        end.echo(&peer, &mut keys, mark);
    }
    // wireguard-go begins: a peer that it has no keys with, and is to keep alive.
    for mark in 3..=4 {
        peer.configure(&format!("public_key={own}\nremove=true"));
        peer.configure(&format!("{member}\nendpoint={here}\npersistent_keepalive_interval=25"));
        let mut keys = end.respond();
        end.echo(&peer, &mut keys, mark);
    }
    println!("4 handshakes, 2 begun by each side");
}
