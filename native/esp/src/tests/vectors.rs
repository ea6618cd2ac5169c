//! Published packets, whole.

use super::*;
use crate::open;
use crate::packet;
use crate::replay::Window;
use crate::seal;

/// The window of an SA where all up to `top` have come.
fn window(top: u64) -> Window {
    let mut window = Window::new();
    if top > 0 {
        window.see(top);
    }
    window
}

/// draft-mcgrew-gcm-test-01 §4, case 1: extended numbers, and a lower half of 0.
const DRAFT_KEY: &str = "4c80cdefbb5d10da906ac73c3613a6342e443b68";
const DRAFT_NUMBER: u64 = 0x8765_4321_0000_0000;
const DRAFT: &str = "00004321000000004956ed7e3b244cfe\
    fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a1\
    3c5d15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732459018148f6cbe722fd04796562dfdb4";
const DRAFT_TEXT: &str = "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000\
    045f736970045f756470037369700963796265726369747902646b000021000101020201";

#[test]
fn the_drafts_packet_with_an_extended_number_is_authentic() {
    for provider in Provider::ALL.iter().copied() {
        let key = Key::new(provider, Cipher::Aes128Gcm, &hex(DRAFT_KEY)).unwrap();
        let mut packet = hex(DRAFT);
        let (head, text) = packet.split_at_mut(HEAD);
        let aad = crate::keys::additional_data(Spi(0x4321), DRAFT_NUMBER);
        let iv = head[8..].try_into().unwrap();
        key.aead.open(key.nonce(iv), &aad, text).unwrap();
        let text = &text[..text.len() - packet::ICV];
        assert_eq!(text, hex(DRAFT_TEXT));
        // Its next header is 1: what it holds is not for a tunnel.
        assert_eq!(packet::unpack(text), Err(Fault::NextHeader));
    }
}

/// RFC 7634 appendix A: numbers of 32 bits, so that the additional data are the first 8 bytes.
const RFC_7634_KEY: &str =
    "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3";
const RFC_7634: &str = "01020304000000051011121314151617\
    24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c\
    02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0\
    76aaa8266b7fb0f7b11b369907e1ad43";
const RFC_7634_PACKET: &str = "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec1000\
    07362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132\
    3334353637";

#[test]
fn the_rfcs_packet_with_chacha20_opens_and_holds_a_ping() {
    for provider in Provider::ALL.iter().copied() {
        let key = Key::new(provider, Cipher::ChaCha20Poly1305, &hex(RFC_7634_KEY)).unwrap();
        let mut packet = hex(RFC_7634);
        let (head, text) = packet.split_at_mut(HEAD);
        let iv = head[8..].try_into().unwrap();
        key.aead.open(key.nonce(iv), &head[..8], text).unwrap();
        let text = &text[..text.len() - packet::ICV];
        let ping = hex(RFC_7634_PACKET);
        assert_eq!(packet::unpack(text), Ok((Content::Ipv4, ping.len())));
        assert_eq!(text[..ping.len()], ping);
        assert_eq!(text[ping.len()..], [1, 2, 2, 4], "padding, its length, next header");
        // Under an SA with extended numbers the additional data are others.
        let spi = Spi(0x0102_0304);
        let extended = open::open(&key, spi, true, &mut window(0), &mut hex(RFC_7634));
        assert_eq!(extended, Err(Fault::Forged));
    }
}

#[test]
fn a_packet_of_linux_with_an_iv_that_is_no_number_opens() {
    // What Linux 6.1 sent with `flag esn`, key and salt as given to it: across 2^32, in IVs the
    // number and a random salt of its own, one xor the other.
    let key = "8bff5b942c73da90e92e80d6fd84cdf08ef35a86e3b80ede35bb9d1e8172ff3a132bced8";
    let packets = [
        "c0000203fffffffec3098c962e81e892ad99b35624436ab877396895dc2864329acaee23839da1c55e87ab2574\
         3f0de7e040427e4705995c290b789a3bba5075",
        "c0000203ffffffffc3098c962e81e893d8c6e0c481738a17a71d2182d19e171c82cb2c65fcdfbb3b9586856d8d\
         c4bb23b021f0a0bde4ed667dffdbd1bfa1dc1387de56bb",
        "c000020300000000c3098c97d17e176c6e197d5077e55ea29300e37462b8bec70d9f01a3372128b16bfc1a2351\
         fac528b3ec31901e2249d981bab5d1d48df90ea4da27a4",
        "c000020300000001c3098c97d17e176d4fc8d0db2fe27f74dd74ccc77f9108b0b92dd445f690e98fd68f9b4dd0\
         90253419efb4c1e6e0055371726816f28e9faa7dfbd59d",
    ];
    for provider in Provider::ALL.iter().copied() {
        let key = Key::new(provider, Cipher::Aes256Gcm, &hex(key)).unwrap();
        let mut window = window(0x6_ffff_fffd);
        for (count, packet) in packets.iter().enumerate() {
            let mut packet = hex(packet);
            let opened =
                open::open(&key, Spi(0xc000_0203), true, &mut window, &mut packet).unwrap();
            assert_eq!(opened.content, Content::Ipv4);
            // A UDP datagram with `k`, its count, and as many `x`.
            let expected = format!("k{count}{}", "x".repeat(count));
            assert_eq!(packet[opened.place][28..], *expected.as_bytes());
        }
        assert_eq!(window.top(), 0x7_0000_0001);
    }
}

#[test]
fn a_sealed_packet_says_spi_number_and_iv_in_the_clear() {
    for (provider, cipher) in combinations() {
        let number = 0x0000_0005_8000_0001;
        let (spi, mut slot) = (spi(7), slot(&ipv4(61)));
        let len = seal::seal(&key(provider, cipher), spi, number, Content::Ipv4, &mut slot);
        assert_eq!(len, Ok(16 + 61 + 1 + 2 + 16));
        assert_eq!(slot[..4], spi.number().to_be_bytes());
        assert_eq!(slot[4..8], [0x80, 0, 0, 1]);
        assert_eq!(slot[8..16], number.to_be_bytes());
    }
}
