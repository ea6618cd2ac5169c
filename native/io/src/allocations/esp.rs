//! What sealing and opening ask of the allocator: nothing, from the second packet of a lane on.

use tunneld_core::coalescing::Kinds;
use tunneld_core::encapsulation::Via;
use tunneld_core::sad::{Claim, OpeningSet, Sad, SealingSet};
use tunneld_core::waiting::{Room, Waiting};
use tunneld_esp::cipher::Cipher;
use tunneld_esp::keys::Secret;
use tunneld_esp::provider::Provider;
use tunneld_esp::sa::Direction;
use tunneld_esp::spi::SpiBase;
use tunneld_wire::virtio_net_hdr::Header as VnetHeader;

use super::*;

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2)), 8286);
const NOW_NS: u64 = 1_000_000_000;

/// The change of a host with the first subnet, which reaches the second by ESP.
fn sealed(own: u8, far: u8) -> Change {
    let prefix = |number: u8| format!("10.5.{number}.0/24").parse().unwrap();
    let mut change = change(PEER);
    let encapsulation = Encapsulation::Esp { key: [far; 32], subnet: prefix(far) };
    change.put_adjacencies[0].1.encapsulation = encapsulation;
    change.put_entries =
        vec![(prefix(own), TargetName::Local), (prefix(far), TargetName::Adjacency("peer".into()))];
    change
}

fn direction(provider: Provider, cipher: Cipher, number: u32) -> Direction {
    Direction {
        secret: Secret::new(&[number as u8; Secret::LEN]),
        provider,
        cipher,
        base: SpiBase::of_random(number),
        lanes: 1,
        agreed_ns: NOW_NS,
    }
}

fn claim(number: u8) -> Claim {
    Claim { ipv4: format!("10.5.{number}.0/24").parse().ok(), ipv6: None }
}

#[test]
fn sealed_packets_allocate_nothing_on_their_way_out_and_in() {
    for provider in Provider::ALL {
        for cipher in Cipher::ALL {
            let sads = [(); 2].map(|()| Arc::new(Sad::new(1)));
            let [here, there] = &sads;
            let [out, far] = [(here, 1, 2), (there, 2, 1)].map(|(sad, own, far)| {
                let mut tables = Tables::new(1).sealing(Arc::clone(sad));
                tables.commit(sealed(own, far)).unwrap()
            });
            // Two sets in turn, as where a peer's keys change all the time.
            let sets = [3, 4].map(|number| {
                let made = || direction(*provider, *cipher, number);
                there.install(OpeningSet::new(there.peer([1; 32]), claim(1), made()));
                Arc::new(SealingSet::new(SpiBase::of_random(9), claim(2), made()))
            });
            let mut outbound = Outbound::new(0, Arc::default());
            let mut inbound = Inbound::new(0, Arc::default()).opening(Arc::clone(there));
            inbound.set_coalescing(Kinds { tcp: true, udp: true });
            let whole = packet(HOST, FAR, 0, SEGMENTS * SEGMENT_LEN);
            let vnet = VnetHeader {
                flags: 1,
                gso: tunneld_wire::virtio_net_hdr::Gso::TcpV4,
                gso_size: SEGMENT_LEN as u16,
                checksum_start: 20,
                checksum_offset: 16,
                ..VnetHeader::default()
            };
            let mut memory = Vec::with_capacity(1 << 17);
            let mut delivered = 0;
            let asked = allocations(|| {
                sets.iter().fold(0, |asked, set| {
                    asked
                        + counted(|| {
                            here.peer([2; 32]).seal_by(set, PEER);
                            outbound.handle(&out, vnet, &whole, NOW_NS);
                            let batch = outbound.batch();
                            let queue = &batch.queues()[batch.first_for_esp()];
                            for train in queue.trains() {
                                memory.clear();
                                queue.pieces(train).for_each(|one| memory.extend_from_slice(one));
                                let (place, len) = (0..memory.len(), Some(train.segment_len));
                                inbound.handle(
                                    &far,
                                    Via::Esp,
                                    PEER,
                                    &mut memory,
                                    place,
                                    len,
                                    NOW_NS,
                                );
                            }
                            delivered +=
                                inbound.deliveries().iter().map(|one| one.count).sum::<usize>();
                            inbound.clear();
                            outbound.clear();
                        })
                })
            });
            assert_eq!(asked, 0, "{cipher} by {provider}");
            assert_eq!(delivered, 2 * 120 * SEGMENTS, "{cipher} by {provider}");
        }
    }
}

#[test]
fn packets_that_wait_for_keys_allocate_nothing() {
    let sad = Arc::new(Sad::new(1));
    let fib = Tables::new(1).sealing(sad).commit(sealed(1, 2)).unwrap();
    let waiting = Arc::<Waiting>::default();
    let mut outbound = Outbound::new(0, Arc::default()).leaving_in(Arc::clone(&waiting));
    let (single, mut room) = (packet(HOST, FAR, 0, 200), Room::default());
    let mut left = 0;
    let asked = allocations(|| {
        counted(|| {
            (0..200).for_each(|_| outbound.handle(&fib, VnetHeader::default(), &single, NOW_NS));
            waiting.take(&mut room);
            left += room.iter().count();
        })
    });
    assert_eq!((asked, left), (0, 120 * 128));
}
