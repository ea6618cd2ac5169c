//! What sealing and opening cost, by provider, cipher and length.

use std::hint::black_box;

use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Secret;
use tunneld_esp::packet::{Content, HEAD, TAIL};
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::{InboundSa, OutboundSa};
use tunneld_esp::spi::SpiBase;

use crate::cases::{BATCH, Maker};
use crate::packets::packet;

const LENS: [usize; 4] = [64, 256, 1_024, 1_438];

/// Returns sealing, and sealing with opening: a packet opens once, so it must be sealed for it.
pub(crate) fn makers() -> Vec<(String, Maker)> {
    let mut makers: Vec<(String, Maker)> = Vec::new();
    for (what, opens) in [("seal", false), ("seal and open", true)] {
        for cipher in Cipher::ALL.iter().copied() {
            for provider in Provider::ALL.iter().copied() {
                for len in LENS {
                    let name = format!("{what} {provider} {cipher} {len}");
                    makers.push((name, Box::new(move || case(provider, cipher, len, opens))));
                }
            }
        }
    }
    makers
}

fn case(provider: Provider, cipher: Cipher, len: usize, opens: bool) -> (usize, Box<dyn FnMut()>) {
    let Some(spi) = SpiBase::of_random(7).lane(0) else { return (BATCH, Box::new(|| ())) };
    let key = || Secret::new(&[7; Secret::LEN]).key(provider, cipher, spi);
    let (Ok(sealing), Ok(opening)) = (key(), key()) else { return (BATCH, Box::new(|| ())) };
    let outbound = OutboundSa::new(spi, sealing, 0);
    let mut inbound = InboundSa::new(spi, opening, 0);
    let packet = packet(tunneld_wire::ip::PROTOCOL_UDP, len, 0, false);
    let slot = [&[0; HEAD][..], &packet, &[0; TAIL]].concat();
    let mut slots = vec![slot; BATCH];
    let run = move || {
        for slot in &mut slots {
            let sealed = outbound.reserve(1, 0).and_then(|mut numbers| {
                outbound.seal(&mut numbers, Content::Ipv4, black_box(slot))
            });
            if let (true, Ok(len)) = (opens, sealed) {
                // It opens to the packet that it was, in its place for the next round.
                black_box(inbound.open(&mut slot[..len], 0)).ok();
            }
        }
    };
    (BATCH, Box::new(run))
}
