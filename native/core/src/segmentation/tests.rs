use tunneld_wire::{ipv4, ipv6};

use super::*;
use crate::testing::{fix_header_checksum, make_partial};

const FIN_PSH_ACK_CWR: u8 = 0x99;

/// A TCP super-packet with `options` behind the fixed header, checksum left partial.
fn tcp_packet(options: &[u8], payload_len: usize, flags: u8) -> Vec<u8> {
    let tcp_len = 20 + options.len();
    let mut packet = crate::testing::packet([10, 5, 1, 2], [10, 5, 2, 2], 64, 20);
    packet.extend([0x9c, 0x40, 0x14, 0x51]);
    packet.extend(0xffff_ff00u32.to_be_bytes());
    packet.extend([1, 2, 3, 4, (tcp_len as u8 / 4) << 4, flags, 0xfa, 0xf0, 0xab, 0xcd, 0, 0]);
    packet.extend(options);
    packet.extend((0..payload_len).map(|place| (place * 7) as u8));
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[9] = ip::PROTOCOL_TCP;
    packet[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
    fix_header_checksum(&mut packet);
    packet
}

fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let mut packet = crate::testing::packet([10, 5, 1, 2], [10, 5, 2, 2], 64, 20);
    packet.extend([0x20, 0x5d, 0x00, 0x09, 0, 0, 0, 0]);
    packet.extend(payload);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    fix_header_checksum(&mut packet);
    packet
}

fn vnet(gso: Gso, gso_size: u16) -> VnetHeader {
    crate::testing::vnet(gso, gso_size, 20)
}

fn cut(vnet: &VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let packet = &mut packet.to_vec();
    make_partial(vnet, packet);
    let segmentation = crate::testing::segmentation(vnet, packet, true)?;
    let segments = (0..segmentation.count()).map(|index| {
        let mut slot = vec![0xee; segmentation.segment_len(index)];
        segmentation.write(packet, index, &mut slot);
        slot
    });
    Ok(segments.collect())
}

/// Checks both checksums of a segment over all its bytes, from scratch.
#[track_caller]
fn has_right_checksums(segment: &[u8]) {
    if segment[0] >> 4 == 6 {
        let header = ipv6::Header::parse(segment).unwrap();
        return sums_to_zero(&segment[8..40], header.protocol, &segment[header.header_len..]);
    }
    let header = ipv4::Header::parse(segment).unwrap();
    assert!(ipv4::verify_checksum(&segment[..header.header_len]));
    sums_to_zero(&segment[12..20], header.protocol, &segment[header.header_len..]);
}

#[track_caller]
fn sums_to_zero(addresses: &[u8], protocol: u8, transport: &[u8]) {
    let sum = Sum::new()
        .with(addresses)
        .with_u16(u16::from(protocol))
        .with_u16(transport.len() as u16)
        .with(transport);
    assert_eq!(sum.fold(), 0xffff);
}

#[test]
fn every_segment_has_right_checksums_and_its_share_of_the_payload() {
    for payload_len in [1, 99, 100, 101, 1_000, 65_000] {
        for options in [&[][..], &[1; 12], &[1; 40]] {
            let packet = tcp_packet(options, payload_len, 0x10);
            let segments = cut(&vnet(Gso::TcpV4, 100), &packet).unwrap();
            assert_eq!(segments.len(), payload_len.div_ceil(100));
            segments.iter().for_each(|segment| has_right_checksums(segment));
            let headers = 40 + options.len();
            let payload: Vec<u8> =
                segments.iter().flat_map(|segment| segment[headers..].to_vec()).collect();
            assert_eq!(payload, packet[headers..]);
        }
    }
}

#[test]
fn sequence_and_identification_count_on_and_wrap() {
    let segments = cut(&vnet(Gso::TcpV4, 200), &tcp_packet(&[], 600, 0x10)).unwrap();
    let sequence: Vec<_> = segments.iter().map(|segment| segment[24..28].to_vec()).collect();
    assert_eq!(sequence, [[0xff, 0xff, 0xff, 0x00], [0xff, 0xff, 0xff, 0xc8], [0, 0, 0, 0x90]]);
    let identification: Vec<_> = segments.iter().map(|segment| segment[4..6].to_vec()).collect();
    assert_eq!(identification, [[0xff, 0xfe], [0xff, 0xff], [0, 0]]);
}

#[test]
fn psh_and_fin_stay_on_the_last_segment_and_cwr_on_the_first() {
    let packet = tcp_packet(&[], 300, FIN_PSH_ACK_CWR);
    let segments = cut(&vnet(Gso::TcpV4, 100), &packet).unwrap();
    let flags: Vec<_> = segments.iter().map(|segment| segment[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
    let alone = cut(&vnet(Gso::TcpV4, 300), &packet).unwrap();
    assert_eq!(alone[0][33], FIN_PSH_ACK_CWR);
}

#[test]
fn short_last_segment_says_its_own_length() {
    let segments = cut(&vnet(Gso::UdpL4, 100), &udp_packet(&[7; 250])).unwrap();
    let lens: Vec<_> = segments
        .iter()
        .map(|segment| {
            has_right_checksums(segment);
            (u16::from_be_bytes([segment[2], segment[3]]), [segment[24], segment[25]])
        })
        .collect();
    assert_eq!(lens, [(128, [0, 108]), (128, [0, 108]), (78, [0, 58])]);
}

#[test]
fn checksum_0_of_a_udp_segment_is_sent_as_ffff() {
    // The payload is what is missing to a sum of all ones.
    let with = |payload: [u8; 2]| {
        let mut packet = udp_packet(&payload);
        packet.extend([0; 2]);
        packet[3] += 2;
        fix_header_checksum(&mut packet);
        cut(&vnet(Gso::UdpL4, 2), &packet).unwrap()[0].clone()
    };
    let checksum = with([0, 0]);
    let zero = with([checksum[26], checksum[27]]);
    assert_eq!(zero[26..28], [0xff, 0xff]);
    has_right_checksums(&zero);
}

#[test]
fn untrusted_header_len_changes_nothing() {
    let packet = tcp_packet(&[1; 12], 1_000, 0x18);
    let expected = cut(&vnet(Gso::TcpV4, 100), &packet).unwrap();
    for header_len in [0, 1, 40, 152, 1_052, 65_535] {
        let lying = VnetHeader { header_len, ..vnet(Gso::TcpV4, 100) };
        assert_eq!(cut(&lying, &packet).unwrap(), expected);
    }
}

#[test]
fn ecn_bit_in_gso_type_changes_nothing() {
    let packet = tcp_packet(&[], 300, FIN_PSH_ACK_CWR);
    let parsed = VnetHeader::parse([1, 0x81, 0, 0, 100, 0, 20, 0, 16, 0]);
    assert_eq!(cut(&parsed, &packet), cut(&vnet(Gso::TcpV4, 100), &packet));
}

#[test]
fn more_than_64_segments_are_all_made() {
    let segments = cut(&vnet(Gso::TcpV4, 1), &tcp_packet(&[], 1_000, 0x10)).unwrap();
    assert_eq!(segments.len(), 1_000);
    segments.iter().for_each(|segment| has_right_checksums(segment));
}

#[test]
fn options_of_the_ip_header_go_on_every_segment() {
    let mut packet = tcp_packet(&[], 200, 0x10);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    fix_header_checksum(&mut packet);
    let vnet = VnetHeader { checksum_start: 24, ..vnet(Gso::TcpV4, 100) };
    let segments = cut(&vnet, &packet).unwrap();
    for segment in &segments {
        assert_eq!((segment[0], &segment[20..24]), (0x46, &[1, 1, 1, 0][..]));
        has_right_checksums(segment);
    }
}

#[test]
fn what_is_no_super_packet_of_its_kind_is_malformed() {
    let tcp = tcp_packet(&[], 200, 0x10);
    let udp = udp_packet(&[7; 200]);
    let edited = |place: usize, value: u8| {
        let mut packet = tcp.clone();
        packet[place] = value;
        packet
    };
    let cases = [
        (vnet(Gso::TcpV4, 0), tcp.clone()),
        (vnet(Gso::TcpV4, 100), udp),
        (vnet(Gso::UdpL4, 100), tcp.clone()),
        (vnet(Gso::TcpV6, 100), tcp.clone()),
        (vnet(Gso::TcpV4, 100), edited(32, 0x40)),
        (vnet(Gso::TcpV4, 100), edited(6, 0x20)),
        (vnet(Gso::TcpV4, 100), edited(7, 1)),
        (vnet(Gso::TcpV4, 100), tcp_packet(&[], 0, 0x10)[..30].to_vec()),
    ];
    for (number, (vnet, mut packet)) in cases.into_iter().enumerate() {
        let len = packet.len() as u16;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        assert_eq!(cut(&vnet, &packet), Err(DropReason::Malformed), "case {number}");
    }
    assert_eq!(cut(&vnet(Gso::Other(3), 100), &tcp), Err(DropReason::UnexpectedGso));
}

#[test]
fn random_headers_never_panic() {
    let mut state = 5u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for _ in 0..20_000 {
        let len = 20 + usize::from(byte());
        let mut packet: Vec<u8> = (0..len).map(|_| byte()).collect();
        packet[0] = 0x40 | (byte() % 16);
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[6] &= 0x40;
        packet[7] = 0;
        packet[9] = if byte() % 2 == 0 { 6 } else { 17 };
        let gso = if packet[9] == 6 { Gso::TcpV4 } else { Gso::UdpL4 };
        if let Ok(segments) = cut(&vnet(gso, 1 + u16::from(byte())), &packet) {
            assert!(!segments.is_empty());
        }
    }
}
