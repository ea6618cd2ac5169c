//! Both providers give the same bytes, and each opens what the other sealed.

use super::*;

#[test]
fn providers_seal_alike_at_every_length_and_open_each_other() {
    for cipher in Cipher::ALL.iter().copied() {
        let (aws, mut aws_opens) = ends(Provider::AwsLc, cipher);
        let (ring, mut ring_opens) = ends(Provider::Ring, cipher);
        for len in (20..400).chain([511, 512, 513, 1_023, 1_024, 1_438, 8_999, 65_535]) {
            let packet = ipv4(len);
            let by_aws = sealed(&aws, Content::Ipv4, &packet);
            let by_ring = sealed(&ring, Content::Ipv4, &packet);
            assert_eq!(by_aws, by_ring, "{cipher}, {len}");
            assert_eq!(by_aws.len() % 4, 0);
            assert_eq!(opened(&mut ring_opens, &by_aws), Ok(packet.clone()));
            assert_eq!(opened(&mut aws_opens, &by_ring), Ok(packet));
        }
    }
}

#[test]
fn providers_seal_alike_whatever_key_and_text() {
    let mut seeded = Seeded::new(3);
    for round in 0..3_000 {
        let cipher = Cipher::ALL[round % 3];
        let material = seeded.bytes(cipher.material_len());
        let len = seeded.next() as usize % [64, 300, 1_500][round / 3 % 3];
        let payload = seeded.bytes(len);
        let by = |provider| {
            let key = Key::new(provider, cipher, &material).unwrap();
            let sa = OutboundSa::new(spi(0), key, NOW_NS);
            sealed(&sa, Content::Dummy, &payload)
        };
        assert_eq!(by(Provider::AwsLc), by(Provider::Ring), "{cipher}, {len} bytes");
    }
}

#[test]
fn everything_that_is_sealed_opens_to_the_same_packet() {
    for (provider, cipher) in combinations() {
        let (outbound, mut inbound) = ends(provider, cipher);
        for len in 40..120 {
            let packet = ipv6(len);
            let mut datagram = sealed(&outbound, Content::Ipv6, &packet);
            let opened = inbound.open(&mut datagram, NOW_NS).unwrap();
            assert_eq!(opened, Opened { content: Content::Ipv6, place: 16..16 + len });
            assert_eq!(datagram[opened.place], packet);
        }
        let mut dummy = sealed(&outbound, Content::Dummy, &[]);
        assert_eq!(dummy.len(), 36);
        let opened = inbound.open(&mut dummy, NOW_NS).unwrap();
        assert_eq!(opened, Opened { content: Content::Dummy, place: 16..16 });
    }
}
