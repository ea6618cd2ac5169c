use super::*;
use crate::ip::PROTOCOL_TCP;
use crate::seeded::Seeded;

/// scapy: IPv6(src="fd00:5:1::2", dst="fd00:5:2::2", hlim=63, tc=0x2e, fl=0x12345)
/// / UDP(sport=40000, dport=9) / b"payload".
const DATAGRAM: [u8; 55] = [
    0x62, 0xe1, 0x23, 0x45, 0x00, 0x0f, 0x11, 0x3f, 0xfd, 0x00, 0x00, 0x05, 0x00, 0x01, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0xfd, 0x00, 0x00, 0x05, 0x00, 0x02, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x9c, 0x40, 0x00, 0x09, 0x00, 0x0f, 0xac, 0x44,
    0x70, 0x61, 0x79, 0x6c, 0x6f, 0x61, 0x64,
];

/// scapy: IPv6 / IPv6ExtHdrHopByHop(PadN of 4) / IPv6ExtHdrDestOpt(PadN of 12) / TCP.
const EXTENDED: [u8; 44] = [
    0x3c, 0x00, 0x01, 0x04, 0x00, 0x00, 0x00, 0x00, 0x06, 0x01, 0x01, 0x0c, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x40, 0x14, 0x51, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x50, 0x10, 0x20, 0x00, 0xe5, 0x30, 0x00, 0x00,
];

/// A packet with `payload` behind the fixed header, which says `next_header` of it.
fn with_payload(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = DATAGRAM[..Header::LEN].to_vec();
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet[6] = next_header;
    packet.extend(payload);
    packet
}

fn walked(next_header: u8, payload: &[u8]) -> (usize, u8, u16) {
    let header = Header::parse(&with_payload(next_header, payload)).unwrap();
    (header.header_len, header.protocol, header.fragment)
}

#[test]
fn every_field_is_read_and_written_back() {
    let header = Header::parse(&DATAGRAM).unwrap();
    assert_eq!(header.source, "fd00:5:1::2".parse::<Ipv6Addr>().unwrap());
    assert_eq!(header.destination, "fd00:5:2::2".parse::<Ipv6Addr>().unwrap());
    assert_eq!((header.header_len, header.payload_len), (40, 15));
    assert_eq!((header.hop_limit, header.protocol), (63, 17));
    assert_eq!(header.class_and_label, 0x02e1_2345);
    assert!(!header.is_fragment());
    assert_eq!(header.emit(), DATAGRAM[..40]);
}

#[test]
fn pseudo_header_makes_a_right_checksum_sum_up() {
    let header = Header::parse(&DATAGRAM).unwrap();
    let sum = pseudo_header(&header, 17).with_u16(15).with(&DATAGRAM[40..]);
    assert_eq!(sum.fold(), 0xffff);
}

#[test]
fn every_fault_has_its_own_error() {
    let with = |place: usize, value: u8| {
        let mut packet = DATAGRAM;
        packet[place] = value;
        Header::parse(&packet).unwrap_err()
    };
    let truncated = |have| Err(Malformed::Truncated { need: 40, have });
    assert_eq!(Header::parse(&DATAGRAM[..39]), truncated(39));
    assert_eq!(Header::parse(&[]), truncated(0));
    assert_eq!(with(0, 0x45), Malformed::Version { version: 4 });
    assert_eq!(with(5, 16), Malformed::TotalLengthTooLong { total_len: 56, have: 55 });
    assert_eq!(with(5, 14), Malformed::TotalLengthTooShort { total_len: 54, have: 55 });
}

#[test]
fn extension_headers_are_walked_to_the_transport() {
    assert_eq!(walked(HOP_BY_HOP, &EXTENDED), (40 + 24, PROTOCOL_TCP, 0));
    assert_eq!(walked(PROTOCOL_TCP, &EXTENDED[24..]), (40, PROTOCOL_TCP, 0));
    // An authentication header counts its length in other units: here 24 bytes.
    let authenticated = [&[6, 4][..], &[0; 22], &EXTENDED[24..]].concat();
    assert_eq!(walked(AUTHENTICATION, &authenticated), (40 + 24, PROTOCOL_TCP, 0));
}

#[test]
fn fragments_are_told_apart() {
    let fragment = |bits: u16| {
        let [f0, f1] = bits.to_be_bytes();
        [&[60, 0, f0, f1, 0, 0, 0, 1][..], &[6, 0, 1, 4, 0, 0, 0, 0], &[0; 20]].concat()
    };
    let header = |bits| Header::parse(&with_payload(FRAGMENT, &fragment(bits))).unwrap();
    // Whole: fragment header and options are walked over.
    assert_eq!((header(0).header_len, header(0).protocol), (56, PROTOCOL_TCP));
    assert!(!header(0).is_fragment());
    assert!(!header(0x0006).is_fragment(), "reserved bits");
    let first = header(0x0001);
    assert_eq!((first.header_len, first.protocol), (56, PROTOCOL_TCP));
    assert!(first.is_fragment() && !first.is_later_fragment());
    let later = header(0x0008);
    assert_eq!((later.header_len, later.protocol), (48, 60));
    assert!(later.is_fragment() && later.is_later_fragment());
}

#[test]
fn the_walk_ends_where_the_transport_cannot_be_told() {
    // Not all there.
    assert_eq!(walked(HOP_BY_HOP, &[6, 1, 0, 0, 0, 0, 0, 0]), (40, HOP_BY_HOP, 0));
    assert_eq!(walked(HOP_BY_HOP, &[6, 0]), (40, HOP_BY_HOP, 0));
    // A routing header that is still to be followed, and one that is not.
    let routing = |left| [&[6, 0, 4, left, 0, 0, 0, 0][..], &EXTENDED[24..]].concat();
    assert_eq!(walked(ROUTING, &routing(1)), (40, ROUTING, 0));
    assert_eq!(walked(ROUTING, &routing(0)), (48, PROTOCOL_TCP, 0));
    // More than anybody sends.
    let many = [60, 0, 1, 4, 0, 0, 0, 0].repeat(100);
    assert_eq!(walked(DESTINATION_OPTIONS, &many), (40 + 64, DESTINATION_OPTIONS, 0));
}

#[test]
fn random_extension_headers_never_panic() {
    let mut random = Seeded::new(8);
    for _ in 0..100_000 {
        let len = random.next() as usize % 70;
        let mut payload = random.bytes(len);
        for place in (0..len).step_by(8) {
            let kinds = [HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, 60, 6, 17, 59];
            payload[place] = kinds[random.next() as usize % kinds.len()];
        }
        let packet = with_payload(DESTINATION_OPTIONS, &payload);
        let header = Header::parse(&packet).unwrap();
        assert!((40..=packet.len()).contains(&header.header_len));
    }
}

#[test]
fn a_hop_is_taken_but_not_the_last_one() {
    let mut packet = DATAGRAM;
    assert!(take_hop(&mut packet));
    let mut expected = DATAGRAM;
    expected[7] = 62;
    assert_eq!(packet, expected);
    for hop_limit in [0, 1] {
        packet[7] = hop_limit;
        let before = packet;
        assert!(!take_hop(&mut packet));
        assert_eq!(packet, before);
    }
    assert!(!take_hop(&mut [0x60; 39]));
}

#[test]
fn only_addresses_of_one_host_beyond_its_link_are_routable() {
    let routable = |text: &str| is_routable(text.parse().unwrap());
    assert!(routable("fd00:5:1::2"));
    assert!(routable("2001:db8::1"));
    assert!(routable("fec0::1"));
    for text in ["::", "::1", "fe80::1", "febf::1", "ff02::2", "ff02::16", "ff0e::1"] {
        assert!(!routable(text), "{text}");
    }
}
