//! The test vectors of docs/encryption.md, which other implementations made.

use super::*;
use crate::open;
use crate::replay::Window;
use crate::seal;

const PAGE: &str = include_str!("../../../../docs/encryption.md");

/// What a vector of the page is, by its name.
fn vector(name: &str) -> Vec<u8> {
    let (_, block) = PAGE.split_once("```vectors\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let lines = block.lines().skip_while(|line| line.strip_suffix(':') != Some(name)).skip(1);
    let digits: String = lines.map_while(|line| line.strip_prefix("  ")).collect();
    assert!(!digits.is_empty(), "{name} is in the page");
    hex(&digits)
}

const INITIATOR: &str = "from_initiator";
const RESPONDER: &str = "from_responder";

#[test]
fn packets_of_the_page_are_sealed_and_opened_byte_for_byte() {
    for (direction, spi, cipher, number, sa, packet) in [
        (INITIATOR, 0xffff_ff80, 3, 1, "sa_ir_lane_0_chacha20", "esp_ir_lane_0_chacha20_number_1"),
        (
            INITIATOR,
            0xffff_ff85,
            3,
            1 << 32,
            "sa_ir_lane_5_chacha20",
            "esp_ir_lane_5_chacha20_number_2_32",
        ),
        (
            RESPONDER,
            0xc123_4540,
            3,
            7,
            "sa_ri_lane_0_chacha20",
            "esp_ri_lane_0_chacha20_number_7_dummy",
        ),
        (INITIATOR, 0xffff_ff80, 1, 1, "sa_ir_lane_0_aes256", "esp_ir_lane_0_aes256_number_1"),
        (INITIATOR, 0xffff_ff80, 2, 1, "sa_ir_lane_0_aes128", "esp_ir_lane_0_aes128_number_1"),
    ] {
        let secret = Secret::new(vector(direction).as_slice().try_into().unwrap());
        let spi = Spi::new(spi).unwrap();
        let cipher = Cipher::ALL[cipher - 1];
        let expected = vector(packet);
        let (content, payload) = if packet.ends_with("dummy") {
            (Content::Dummy, Vec::new())
        } else {
            (Content::Ipv4, vector("packet"))
        };
        for provider in Provider::ALL.iter().copied() {
            let derived = secret.key(provider, cipher, spi).unwrap();
            let given = Key::new(provider, cipher, &vector(sa)).unwrap();
            for key in [&derived, &given] {
                let mut slot = slot(&payload);
                let len = seal::seal(key, spi, number, content, &mut slot).unwrap();
                assert_eq!(slot[..len], expected, "{packet}");
            }
            // An SA that has seen the number before it opens the packet.
            let mut window = Window::new();
            if number > 1 {
                window.see(number - 1);
            }
            let mut datagram = expected.clone();
            let opened = open::open(&derived, spi, true, &mut window, &mut datagram).unwrap();
            assert_eq!((opened.content, &datagram[opened.place]), (content, &payload[..]));
        }
    }
}
