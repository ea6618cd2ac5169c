//! How large a packet of a TCP connection may be: what the ends behind this host have said.
//!
//! Path of a packet: `outbound` → **`packet_sizes`** → `checksum_partial`.
//! A kernel's tunnel on a virtual link sends super-packets whole, and says nowhere how its
//! connection cuts. The receiver's MSS said so in its SYN, and a router's ICMP error may have said
//! less since. Both leave by this host before the first packet that must be cut for them arrives.
//! Of a connection that began earlier, and of one whose place another took, nothing is known: then
//! the sizes that every host takes are right, only smaller.
//!
//! Source: RFC 9293 §3.7.1 (default MSS), RFC 6691 (options are not counted in it), RFC 792 and
//! RFC 1191 §4 (frag-needed), RFC 4443 §3.2 (packet too big).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tunneld_wire::ip::Version;
use tunneld_wire::{icmp, icmpv6, ip, tcp};

/// Connections remembered at most, a power of two. The newest takes the place of an older one.
const SLOTS: usize = 1 << 13;

/// Bits of a key that are kept beside a size.
const TAG: u64 = (1 << 48) - 1;

/// Nobody who asks for less is believed, in bytes: MSS 88, the least that Linux sends by.
const SMALLEST: usize = 128;

/// Sizes by connection; shared by all data threads, which neither wait nor lock.
///
/// A slot holds 48 bits of a connection's key, and the size in bytes; 0: nothing.
pub struct PacketSizes(Box<[AtomicU64]>);

impl Default for PacketSizes {
    fn default() -> Self {
        Self(std::iter::repeat_with(AtomicU64::default).take(SLOTS).collect())
    }
}

impl PacketSizes {
    /// Takes note of what a packet on its way to a peer says of the packets that may come back.
    #[inline]
    pub fn learn<H: ip::Header>(&self, header: &H, packet: &[u8]) {
        let rest = packet.get(header.header_len()..).unwrap_or_default();
        match header.protocol() {
            ip::PROTOCOL_TCP => {
                let flags = rest.get(tcp::FLAGS_OFFSET + 1).copied().unwrap_or(0);
                if u16::from(flags) & tcp::SYN != 0 {
                    self.learn_from_syn(header, rest);
                }
            }
            ip::PROTOCOL_ICMP | ip::PROTOCOL_ICMPV6 => self.learn_from_error::<H>(rest),
            _ => {}
        }
    }

    #[cold]
    fn learn_from_syn<H: ip::Header>(&self, header: &H, segment: &[u8]) {
        let (Some(ports), Some(tcp)) = (segment.first_chunk(), tcp::Header::parse(segment)) else {
            return;
        };
        if header.is_fragment() {
            return;
        }
        let mss = tcp::max_segment_size(&segment[tcp::HEADER_LEN..tcp.header_len]);
        let size = mss.map_or(default::<H>(), |mss| H::LEN + tcp::HEADER_LEN + usize::from(mss));
        let key = key(header.source().into(), header.destination().into(), *ports);
        self.put(key, size);
    }

    /// The packet in question, whose beginning stands in the error, came from the peer.
    #[cold]
    fn learn_from_error<H: ip::Header>(&self, message: &[u8]) {
        let told = match H::VERSION {
            Version::V4 => icmp::next_hop_mtu(message),
            _ => icmpv6::next_hop_mtu(message),
        };
        let Some((mtu, offender)) = told else { return };
        let Some((source, destination, ports)) = H::quoted_tcp(offender) else { return };
        // Any container may write such an error, about any connection: it brings that one no lower
        // than it brings a host of its own.
        let mtu = mtu.max(least_told::<H>());
        let [s0, s1, d0, d1] = ports;
        let key = key(destination, source, [d0, d1, s0, s1]);
        self.put(key, self.get(key).map_or(mtu, |size| size.min(mtu)));
    }

    /// Returns the largest packet in bytes that may go on of those like `packet`, which a peer sent
    /// and whose TCP header stands at `header_len`.
    pub fn largest<H: ip::Header>(&self, header: &H, packet: &[u8]) -> Size {
        let ports = packet.get(header.header_len()..).and_then(<[u8]>::first_chunk);
        let [s0, s1, d0, d1] = ports.copied().unwrap_or_default();
        let key = key(header.destination().into(), header.source().into(), [d0, d1, s0, s1]);
        self.get(key).map_or_else(|| Size::Unknown(default::<H>()), Size::Known)
    }

    fn put(&self, key: u64, size: usize) {
        let size = size.clamp(SMALLEST, usize::from(u16::MAX)) as u64;
        self.slot(key).store((key & TAG) << 16 | size, Ordering::Relaxed);
    }

    fn get(&self, key: u64) -> Option<usize> {
        let held = self.slot(key).load(Ordering::Relaxed);
        (held >> 16 == key & TAG && held & 0xffff != 0).then_some((held & 0xffff) as usize)
    }

    fn slot(&self, key: u64) -> &AtomicU64 {
        &self.0[(key >> 48) as usize % SLOTS]
    }
}

/// What is known of a connection, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Its ends, or a router between them, said so.
    Known(usize),
    /// Every host takes as much.
    Unknown(usize),
}

/// Returns what every host takes, in bytes.
const fn default<H: ip::Header>() -> usize {
    match H::VERSION {
        Version::V4 => 576,
        _ => 1_280,
    }
}

/// Returns the least that Linux takes from an ICMP error, in bytes.
///
/// Source: ip-sysctl.rst, `net.ipv4.route.min_pmtu`; RFC 8200 §5.
const fn least_told<H: ip::Header>() -> usize {
    match H::VERSION {
        Version::V4 => 552,
        _ => 1_280,
    }
}

/// Returns the number of a connection. `ports` are those of the near and the far end, as they
/// stand in a packet from the near one.
fn key(near: IpAddr, far: IpAddr, ports: [u8; 4]) -> u64 {
    /// Source: S. Vigna, the finalizer of SplitMix64.
    const fn mixed(hash: u64, word: u64) -> u64 {
        let hash = (hash ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    }
    let words = [near, far].map(|address| match address {
        IpAddr::V4(address) => [0, address.to_bits().into()],
        IpAddr::V6(address) => [(address.to_bits() >> 64) as u64, address.to_bits() as u64],
    });
    let hash = words.as_flattened().iter().fold(0, |hash, word| mixed(hash, *word));
    mixed(hash, u32::from_be_bytes(ports).into())
}
