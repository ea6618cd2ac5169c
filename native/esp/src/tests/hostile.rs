//! What an attacker sends. Nothing of it opens, nothing of it moves the window, and every honest
//! packet among it still opens.

use super::*;
use crate::open;
use crate::packet;
use crate::replay::Window;
use crate::seal;
use crate::sequence;
use crate::spi::Kind;

/// Packet `number` of the SA, whatever came before.
fn numbered(key: &Key, number: u64, content: Content, payload: &[u8]) -> Vec<u8> {
    let mut slot = slot(payload);
    let len = seal::seal(key, spi(0), number, content, &mut slot).unwrap();
    slot.truncate(len);
    slot
}

/// A packet with a text of the attacker's choice, as only a holder of the key can make it.
fn holding(key: &Key, number: u64, text: &[u8]) -> Vec<u8> {
    let iv = number.to_be_bytes();
    let mut text = text.to_vec();
    let aad = crate::keys::additional_data(spi(0), number);
    let icv = key.aead.seal(key.nonce(iv), &aad, &mut text).unwrap();
    let low = (number as u32).to_be_bytes();
    [&spi(0).number().to_be_bytes()[..], &low, &iv, &text, &icv].concat()
}

#[test]
fn one_changed_bit_anywhere_is_refused() {
    for (provider, cipher) in combinations() {
        let (outbound, mut inbound) = ends(provider, cipher);
        for (content, payload) in [(Content::Dummy, vec![]), (Content::Ipv4, ipv4(29))] {
            let packet = sealed(&outbound, content, &payload);
            for bit in 0..packet.len() * 8 {
                let mut changed = packet.clone();
                changed[bit / 8] ^= 0x80 >> (bit % 8);
                let fault = opened(&mut inbound, &changed).unwrap_err();
                let is_expected = match bit / 8 {
                    0..4 => fault == Fault::OtherSpi,
                    // The other number may be one that has come, or 0.
                    4..8 => matches!(fault, Fault::Forged | Fault::Replayed | Fault::Sequence),
                    _ => fault == Fault::Forged,
                };
                assert!(is_expected, "{provider}, {cipher}, bit {bit}: {fault}");
                if bit % 10 == 9 {
                    let honest = sealed(&outbound, Content::Ipv4, &ipv4(20));
                    assert_eq!(opened(&mut inbound, &honest), Ok(ipv4(20)));
                }
            }
            assert_eq!(opened(&mut inbound, &packet), Ok(payload), "it is still new");
        }
    }
}

#[test]
fn a_packet_cut_at_any_length_is_refused() {
    for (provider, cipher) in combinations() {
        let (outbound, mut inbound) = ends(provider, cipher);
        let packet = sealed(&outbound, Content::Ipv4, &ipv4(60));
        for len in 0..packet.len() {
            let expected = if len < 36 { Fault::Malformed } else { Fault::Forged };
            assert_eq!(opened(&mut inbound, &packet[..len]), Err(expected), "{len}");
        }
        for more in [&[0][..], &[0; 16], &packet] {
            let longer = [&packet[..], more].concat();
            assert_eq!(opened(&mut inbound, &longer), Err(Fault::Forged));
        }
        assert_eq!(opened(&mut inbound, &packet), Ok(ipv4(60)));
    }
}

#[test]
fn a_replay_is_refused_at_both_edges_of_the_window_and_beyond() {
    for (provider, cipher) in combinations() {
        let (key, mut inbound) = (key(provider, cipher), ends(provider, cipher).1);
        let top = (1 << 32) + 5_000;
        let packet = |number| numbered(&key, number, Content::Ipv4, &ipv4(30));
        assert_eq!(opened(&mut inbound, &packet(5_000)), Ok(ipv4(30)));
        // Up to 2^32 - 1 in steps that inference can follow.
        for number in [(1 << 31), (1 << 32) - 1, top - 8_127, top] {
            assert_eq!(opened(&mut inbound, &packet(number)), Ok(ipv4(30)), "{number}");
        }
        assert_eq!(opened(&mut inbound, &packet(top)), Err(Fault::Replayed));
        assert_eq!(opened(&mut inbound, &packet(top - 8_127)), Err(Fault::Replayed));
        // Below the window a number is taken for that of the next 2^32, which the ICV denies.
        for number in [top - 8_128, top - 8_129, 5_000] {
            assert!(opened(&mut inbound, &packet(number)).is_err(), "{number}");
        }
        assert_eq!(opened(&mut inbound, &packet(top - 1)), Ok(ipv4(30)));
        assert_eq!(opened(&mut inbound, &packet(top + 1)), Ok(ipv4(30)));
    }
}

#[test]
fn a_forged_number_far_ahead_does_not_move_the_window() {
    let (provider, cipher) = (Provider::AwsLc, Cipher::Aes256Gcm);
    let (outbound, mut inbound) = ends(provider, cipher);
    let packets: Vec<_> = (0..100).map(|_| sealed(&outbound, Content::Ipv4, &ipv4(20))).collect();
    for packet in &packets {
        let mut forged = packet.clone();
        forged[4..8].copy_from_slice(&1_000_000u32.to_be_bytes());
        assert_eq!(opened(&mut inbound, &forged), Err(Fault::Forged));
        assert_eq!(opened(&mut inbound, packet), Ok(ipv4(20)));
        assert_eq!(opened(&mut inbound, packet), Err(Fault::Replayed));
    }
}

#[test]
fn number_0_and_numbers_beyond_the_last_are_a_fault_of_the_sequence() {
    for (provider, cipher) in combinations() {
        let (key, mut inbound) = (key(provider, cipher), ends(provider, cipher).1);
        let zero = numbered(&key, 0, Content::Ipv4, &ipv4(20));
        assert_eq!(opened(&mut inbound, &zero), Err(Fault::Sequence));
        let below = numbered(&key, u64::MAX, Content::Ipv4, &ipv4(20));
        assert_eq!(opened(&mut inbound, &below), Err(Fault::Sequence));

        let mut window = Window::new();
        window.see(sequence::LAST - 1);
        let mut last = numbered(&key, sequence::LAST, Content::Ipv4, &ipv4(20));
        assert!(open::open(&key, spi(0), true, &mut window, &mut last).is_ok());
        let mut beyond = numbered(&key, sequence::LAST + 1, Content::Ipv4, &ipv4(20));
        let opened = open::open(&key, spi(0), true, &mut window, &mut beyond);
        assert_eq!(opened, Err(Fault::Sequence));
    }
}

#[test]
fn the_lower_half_0_is_opened_at_2_to_the_32() {
    for (provider, cipher) in combinations() {
        let key = key(provider, cipher);
        let mut window = Window::new();
        window.see((1 << 32) - 3);
        for number in [(1u64 << 32) - 1, 1 << 32, (1 << 32) + 1, (1 << 32) - 2] {
            let mut packet = numbered(&key, number, Content::Ipv4, &ipv4(20));
            let opened = open::open(&key, spi(0), true, &mut window, &mut packet);
            assert!(opened.is_ok(), "{number:#x}: {opened:?}");
        }
    }
}

#[test]
fn the_nonce_is_what_the_iv_says() {
    for (provider, cipher) in combinations() {
        let (key, mut inbound) = (key(provider, cipher), ends(provider, cipher).1);
        let iv = 0x1122_3344_5566_7788u64.to_be_bytes();
        let mut text = [&ipv4(22)[..], &[0, 4]].concat();
        let aad = crate::keys::additional_data(spi(0), 1);
        let icv = key.aead.seal(key.nonce(iv), &aad, &mut text).unwrap();
        let spi = spi(0).number().to_be_bytes();
        let packet = [&spi[..], &[0, 0, 0, 1], &iv, &text, &icv].concat();
        assert_eq!(opened(&mut inbound, &packet), Ok(ipv4(22)));
    }
}

#[test]
fn a_packet_opens_under_no_other_lane_direction_or_pair() {
    for (provider, cipher) in combinations() {
        let secret = |byte| Secret::new(&[byte; 32]);
        let outbound = |secret: &Secret, lane| {
            OutboundSa::new(spi(lane), secret.key(provider, cipher, spi(lane)).unwrap(), NOW_NS)
        };
        let inbound = |secret: &Secret, spi: Spi| {
            InboundSa::new(spi, secret.key(provider, cipher, spi).unwrap(), NOW_NS)
        };
        let packet = sealed(&outbound(&secret(1), 3), Content::Ipv4, &ipv4(40));
        let elsewhere = SpiBase::of_random(0x65_4321).lane(3).unwrap();
        for (whose, at) in [
            (secret(1), spi(4)),    // another lane
            (secret(2), spi(3)),    // the other direction, or another pair, by the same SPI
            (secret(1), elsewhere), // after a rekey of the same secret
            (secret(2), elsewhere),
        ] {
            let mut sa = inbound(&whose, at);
            let refused = opened(&mut sa, &packet).unwrap_err();
            let expected = if at == spi(3) { Fault::Forged } else { Fault::OtherSpi };
            assert_eq!(refused, expected);
            let mut moved = packet.clone();
            moved[..4].copy_from_slice(&at.number().to_be_bytes());
            assert_eq!(opened(&mut sa, &moved), Err(Fault::Forged), "under the SPI there");
        }
        let other = Cipher::ALL.iter().copied().find(|other| *other != cipher).unwrap();
        let key = secret(1).key(provider, other, spi(3)).unwrap();
        let mut sa = InboundSa::new(spi(3), key, NOW_NS);
        assert_eq!(opened(&mut sa, &packet), Err(Fault::Forged), "by another cipher");
        assert_eq!(opened(&mut inbound(&secret(1), spi(3)), &packet), Ok(ipv4(40)));
    }
}

#[test]
fn an_authentic_packet_that_breaks_the_rules_is_refused_once_and_is_a_replay_then() {
    for (provider, cipher) in combinations() {
        let (key, mut inbound) = (key(provider, cipher), ends(provider, cipher).1);
        let long = {
            let mut packet = ipv4(24);
            packet[3] = 25;
            packet
        };
        for (number, text, expected) in [
            (1, [&ipv4(21)[..], &[9, 1, 4]].concat(), Fault::Padding),
            (2, [&ipv4(22)[..], &[200, 4]].concat(), Fault::Padding),
            (3, [&ipv4(22)[..], &[0, 6]].concat(), Fault::NextHeader),
            (4, [&ipv6(42)[..], &[0, 4]].concat(), Fault::NextHeader),
            (5, [&long[..], &[1, 2, 2, 4]].concat(), Fault::InnerLength),
        ] {
            let packet = holding(&key, number, &text);
            assert_eq!(opened(&mut inbound, &packet), Err(expected), "{number}");
            assert_eq!(opened(&mut inbound, &packet), Err(Fault::Replayed), "{number}");
        }
        let padded = holding(&key, 6, &[&ipv4(20)[..], &[0xee; 100], &[1, 2, 2, 4]].concat());
        assert_eq!(opened(&mut inbound, &padded), Ok(ipv4(20)), "cut to the inner packet");
    }
}

#[test]
fn random_datagrams_are_refused_and_honest_ones_among_them_open() {
    let mut seeded = Seeded::new(11);
    let (outbound, mut inbound) = ends(Provider::Ring, Cipher::Aes256Gcm);
    for round in 0..20_000 {
        let len = seeded.next() as usize % 200;
        let mut datagram = seeded.bytes(len);
        if let Some(head) = datagram.first_chunk_mut() {
            *head = spi(0).number().to_be_bytes();
        }
        let fault = opened(&mut inbound, &datagram).unwrap_err();
        match Kind::of(&datagram) {
            Some(Kind::Data(_)) => assert!(matches!(fault, Fault::Forged | Fault::Sequence)),
            _ => assert_eq!(fault, Fault::Malformed),
        }
        assert_eq!(len < packet::MIN_LEN, fault == Fault::Malformed);
        if round % 10 == 0 {
            let honest = sealed(&outbound, Content::Ipv6, &ipv6(44));
            assert_eq!(opened(&mut inbound, &honest), Ok(ipv6(44)));
        }
    }
}

#[test]
fn every_number_that_can_be_inferred_is_told_apart() {
    // Inference and window must be of one width: else a number below the window would be
    // refused as a replay, though it may be the one of the next 2^32.
    for top in [1, 9_000, (1 << 32) + 100, (1 << 33) + 9_000] {
        let mut window = Window::new();
        window.see(top);
        for back in 0..9_000 {
            let Some(number) = sequence::infer((top as u32).wrapping_sub(back), top) else {
                continue;
            };
            assert!(number + 8_128 > top, "{number}");
        }
    }
}
