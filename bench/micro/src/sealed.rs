//! What ESP costs on the packet path, with the library that is fastest here and AES-256-GCM: sealing
//! while a super-packet is cut, and opening before packets are joined.

use std::hint::black_box;
use std::sync::Arc;

use tunneld_core::coalescing::Kinds;
use tunneld_core::encapsulation::Via;
use tunneld_core::fib::Fib;
use tunneld_core::inbound::Inbound;
use tunneld_core::outbound::Outbound;
use tunneld_core::sad::{Claim, OpeningSet, Sad, SealingSet};
use tunneld_esp::cipher::Cipher;
use tunneld_esp::features::Features;
use tunneld_esp::keys::Secret;
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_esp::spi::SpiBase;

use crate::cases::{Maker, NOW_NS, encapsulate, segment, super_packet};
use crate::packets::{PEER, esp_fib, key, subnet};

/// Returns sealing, and sealing with opening: a datagram opens once, so it must be sealed for it.
pub(crate) fn makers() -> Vec<(String, Maker)> {
    let mut makers: Vec<(String, Maker)> = Vec::new();
    for len in [64, 512, 1_400] {
        let alone = move || encapsulate(sealing(), len);
        makers.push((format!("encapsulate esp {len}"), Box::new(alone)));
        let cut = move || segment(sealing(), len);
        makers.push((format!("segment esp {len}"), Box::new(cut)));
        makers.push((format!("segment and coalesce esp {len}"), Box::new(move || both(len))));
    }
    makers
}

fn direction() -> Direction {
    Direction {
        secret: Secret::new(&[7; Secret::LEN]),
        provider: Provider::fastest(Features::detected()),
        cipher: Cipher::Aes256Gcm,
        base: SpiBase::of_random(7),
        lanes: 1,
        agreed_ns: NOW_NS,
    }
}

fn claim(host: u8) -> Claim {
    Claim { ipv4: subnet(host), ipv6: None }
}

/// Returns the FIB of host 1, with keys to seal for host 2.
fn sealing() -> Fib {
    let sad = Arc::new(Sad::new(1));
    let peer = sad.peer(key(2));
    let set = Arc::new(SealingSet::new(SpiBase::of_random(8), claim(2), direction()));
    peer.seal_by(&set, PEER);
    esp_fib(1, &sad)
}

/// A super-packet that is sealed by one host, and opened and joined again by the other.
fn both(len: usize) -> (usize, Box<dyn FnMut()>) {
    let (vnet, whole, count) = super_packet(len);
    let there = Arc::new(Sad::new(1));
    let far = esp_fib(2, &there);
    there.install(OpeningSet::new(there.peer(key(1)), claim(1), direction()));
    let here = sealing();
    let mut outbound = Outbound::new(0, Arc::default());
    let mut inbound = Inbound::new(0, Arc::default()).opening(there);
    inbound.set_coalescing(Kinds { tcp: true, udp: true });
    let mut memory = Vec::new();
    let run = move || {
        outbound.handle(&here, vnet, black_box(&whole), NOW_NS);
        let queue = &outbound.batch().queues()[outbound.batch().first_for_esp()];
        for train in queue.trains() {
            memory.clear();
            queue.pieces(train).for_each(|piece| memory.extend_from_slice(piece));
            let (place, len) = (0..memory.len(), Some(train.segment_len));
            inbound.handle(&far, Via::Esp, PEER, black_box(&mut memory), place, len, NOW_NS);
        }
        let batch = inbound.deliveries();
        for delivery in batch.iter() {
            black_box(batch.headers(delivery, &memory));
        }
        inbound.clear();
        outbound.clear();
    };
    (count, Box::new(run))
}
