//! ESP on the packet path: authentic datagrams with any packet in them, and foreign ones among them.

use std::net::IpAddr;
use std::sync::Arc;

use tunneld_core::encapsulation::{Encapsulation, Via};
use tunneld_core::fib::Fib;
use tunneld_core::inbound::Inbound;
use tunneld_core::prefix::Prefix;
use tunneld_core::sad::{Claim, Heard, OpeningSet, Protected, Sad};
use tunneld_core::transaction::{Change, Tables};
use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Secret;
use tunneld_esp::packet::{Content, HEAD, TAIL};
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_esp::spi::SpiBase;

use crate::mutate::digest;
use crate::rules::{PEER, apart, drops, forget, inbound};

const KEY: [u8; 32] = [7; 32];
const NOW_NS: u64 = 1;

/// A host, and what it needs to play its peer.
pub(crate) struct Sealed {
    sad: Arc<Sad>,
    peer: Arc<Protected>,
    fib: Fib,
    inbound: Inbound,
    claimed: [Prefix; 2],
}

impl Sealed {
    /// Reaches the peer of `change` by ESP.
    pub(crate) fn new(mut change: Change) -> Option<Self> {
        let claimed = ["10.5.2.0/24".parse().ok()?, "fd00:2::/64".parse().ok()?];
        for (_, parameters) in &mut change.put_adjacencies {
            parameters.encapsulation = Encapsulation::Esp { key: KEY, subnet: claimed[0] };
        }
        let sad = Arc::new(Sad::new(1));
        let peer = sad.peer(KEY);
        let fib = Tables::new(1).sealing(Arc::clone(&sad)).commit(change).ok()?;
        let inbound = inbound().opening(Arc::clone(&sad));
        Some(Self { sad, peer, fib, inbound, claimed })
    }

    /// Takes an input: two bytes with a length, of whose lower 14 bits the pieces of the rest are.
    /// A piece that begins as an IP packet does is sealed, any other is a datagram as it is.
    ///
    /// # Errors
    ///
    /// The rule that was broken.
    pub(crate) fn run(&mut self, input: &[u8]) -> Result<u64, String> {
        let Some((len, pieces)) = input.split_first_chunk::<2>() else { return Ok(0) };
        let len = usize::from(u16::from_be_bytes(*len) & 0x3fff).max(1);
        // The window is empty for each input, so that it stands for itself.
        let direction = || Direction {
            secret: Secret::new(&[9; Secret::LEN]),
            provider: Provider::Ring,
            cipher: Cipher::Aes128Gcm,
            base: SpiBase::of_random(1),
            lanes: 1,
            agreed_ns: 0,
        };
        let claim = Claim { ipv4: Some(self.claimed[0]), ipv6: Some(self.claimed[1]) };
        let set = OpeningSet::new(Arc::clone(&self.peer), claim, direction());
        let set = self.sad.install(set);
        let sealing = direction().outbound(0).map_err(|refused| refused.to_string())?;
        let sealing = sealing.ok_or("there is one lane")?;
        let (mut memory, mut places) = (Vec::new(), Vec::new());
        let mut authentic = 0;
        for piece in pieces.chunks(len).take(64) {
            let content = match piece[0] >> 4 {
                4 => Content::Ipv4,
                6 => Content::Ipv6,
                5 => Content::Dummy,
                _ => {
                    places.push(memory.len()..memory.len() + piece.len());
                    memory.extend_from_slice(piece);
                    continue;
                }
            };
            let mut slot = [&[0; HEAD][..], piece, &[0; TAIL]].concat();
            let mut numbers = sealing.reserve(1, NOW_NS).map_err(|refusal| refusal.to_string())?;
            let sealed = sealing.seal(&mut numbers, content, &mut slot);
            let sealed = sealed.map_err(|refusal| refusal.to_string())?;
            places.push(memory.len()..memory.len() + sealed);
            memory.extend_from_slice(&slot[..sealed]);
            authentic += 1;
        }
        let Self { inbound, fib, .. } = self;
        inbound.clear();
        forget(inbound.counters());
        for place in &places {
            inbound.handle(fib, Via::Esp, PEER, &mut memory, place.clone(), None, NOW_NS);
        }
        let (delivered, shape) = apart(inbound, &memory)?;
        if delivered > authentic {
            return Err("what was not sealed is delivered".to_owned());
        }
        let packets = inbound.deliveries().iter();
        for place in packets.flat_map(|delivery| inbound.deliveries().packets(delivery)) {
            let source = source(&memory[place]).ok_or("a packet without a source")?;
            if !self.claimed.iter().any(|claimed| claimed.contains(source)) {
                return Err(format!("{source} is delivered, which the peer does not claim"));
            }
        }
        let (dropped, reasons) = drops(inbound.counters());
        let heard = set.take_heard();
        let others = inbound.counters().packets.read() - delivered - dropped;
        let controls = inbound.controls().iter().count() as u64;
        if others < controls || others - controls > authentic {
            return Err(format!("{others} datagrams are neither delivered nor dropped"));
        }
        if (heard == Heard::Nothing)
            != (inbound.counters().packets.read() == 0 || !inbound.proves())
        {
            return Err("what is heard proves nothing, or the reverse".to_owned());
        }
        Ok(digest(&[shape, reasons, vec![heard as u8, controls.min(2) as u8]].concat()))
    }
}

fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..)?.first_chunk::<4>().map(|source| IpAddr::from(*source)),
        _ => packet.get(8..)?.first_chunk::<16>().map(|source| IpAddr::from(*source)),
    }
}
