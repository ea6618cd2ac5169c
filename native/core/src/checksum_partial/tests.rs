use super::*;
use crate::segmentation::Segmentation;
use crate::testing::{make_partial, over_ipv6, transport_packet, vnet};
use tunneld_wire::checksum::Sum;
use tunneld_wire::ipv4;

const fn known(segment_len: Option<usize>, sizes: &PacketSizes) -> Known<'_> {
    Known { segment_len, mtu: 1_450, sizes }
}

fn partial(protocol: u8, offset: usize) -> Vec<u8> {
    let mut packet = transport_packet(protocol, &[], &[7; 33]);
    let pseudo = Sum::new()
        .with(&packet[12..20])
        .with_u16(u16::from(protocol))
        .with_u16(packet.len() as u16 - 20);
    packet[20 + offset..][..2].copy_from_slice(&pseudo.fold().to_be_bytes());
    packet
}

#[test]
fn partial_inner_checksum_is_recognised_and_finished() {
    for (protocol, offset) in [(6, 16), (17, 6)] {
        let mut packet = partial(protocol, offset);
        let header = ipv4::Header::parse(&packet).unwrap();
        let vnet = prepare(&header, &mut packet, known(None, &PacketSizes::default())).unwrap();
        let mut finished = vec![0; packet.len()];
        vnet.copy_finished(&mut finished, &packet).unwrap();
        assert_eq!(finished, transport_packet(protocol, &[], &[7; 33]));
    }
}

#[test]
fn finished_and_broken_checksums_are_left_alone() {
    for protocol in [6, 17] {
        let mut packet = transport_packet(protocol, &[], &[7; 33]);
        let header = ipv4::Header::parse(&packet).unwrap();
        assert_eq!(
            prepare(&header, &mut packet, known(None, &PacketSizes::default())),
            Ok(VnetHeader::default())
        );
        packet[40] ^= 1;
        assert_eq!(
            prepare(&header, &mut packet, known(None, &PacketSizes::default())),
            Ok(VnetHeader::default())
        );
    }
}

#[test]
fn fragments_and_other_protocols_have_no_such_checksum() {
    for (place, value) in [(6, 0x20), (7, 1), (9, 1)] {
        let mut packet = partial(17, 6);
        packet[place] = value;
        let header = ipv4::Header::parse(&packet).unwrap();
        assert_eq!(
            prepare(&header, &mut packet, known(None, &PacketSizes::default())),
            Ok(VnetHeader::default())
        );
    }
}

/// A packet of `payload_len` bytes of payload as a kernel's tunnel hands it over.
fn whole(protocol: u8, offset: usize, options: &[u8], payload_len: usize) -> Vec<u8> {
    let mut packet = transport_packet(protocol, options, &vec![0x5a; payload_len]);
    let pseudo = Sum::new()
        .with(&packet[12..20])
        .with_u16(u16::from(protocol))
        .with_u16(packet.len() as u16 - 20);
    packet[20 + offset..][..2].copy_from_slice(&pseudo.fold().to_be_bytes());
    packet
}

fn prepared(packet: &mut [u8], segment_len: Option<usize>) -> Result<VnetHeader, DropReason> {
    let header = ipv4::Header::parse(packet).unwrap();
    prepare(&header, packet, known(segment_len, &PacketSizes::default()))
}

/// Segments as `vnet` says they are to be cut.
fn lengths(packet: &[u8], vnet: &VnetHeader) -> Vec<usize> {
    let header = ipv4::Header::parse(packet).unwrap();
    let cut = Segmentation::new(vnet, &header, packet, false).unwrap();
    (0..cut.count()).map(|index| cut.segment_len(index)).collect()
}

/// Outbound, the SYN of the connection that `whole` is of, which says that MSS; `None`: no MSS.
fn syn(mss: Option<u16>) -> Vec<u8> {
    let [m0, m1] = mss.unwrap_or(0).to_be_bytes();
    let mut packet = match mss {
        Some(_) => transport_packet(6, &[1, 1, 4, 2, 2, 4, m0, m1], &[]),
        None => transport_packet(6, &[], &[]),
    };
    packet[33] = 0x12;
    reversed(packet)
}

/// The same packet, the other way.
fn reversed(mut packet: Vec<u8>) -> Vec<u8> {
    for place in 12..16 {
        packet.swap(place, place + 4);
    }
    packet.swap(20, 22);
    packet.swap(21, 23);
    packet
}

fn learn(sizes: &PacketSizes, packet: &[u8]) {
    match packet[0] >> 4 {
        4 => sizes.learn(&ipv4::Header::parse(packet).unwrap(), packet),
        _ => sizes.learn(&ipv6::Header::parse(packet).unwrap(), packet),
    }
}

/// How large the largest packet is after cutting, and the payload of each but the last.
fn cut_by(sizes: &PacketSizes, packet: &mut [u8]) -> (usize, u16) {
    let vnet = match packet[0] >> 4 {
        4 => prepare(&ipv4::Header::parse(packet).unwrap(), packet, known(None, sizes)),
        _ => prepare(&ipv6::Header::parse(packet).unwrap(), packet, known(None, sizes)),
    };
    let vnet = vnet.unwrap();
    if vnet.gso == Gso::None {
        return (packet.len(), 0);
    }
    (Segmentation::of(&vnet, packet).unwrap().segment_len(0), vnet.gso_size)
}

const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];

#[test]
fn a_super_packet_is_cut_as_its_receiver_asked_for() {
    // RFC 6691: the MSS counts no options, so that payload and options fill it.
    for (mss, largest) in [(1_360, 1_400), (960, 1_000), (1_410, 1_450), (8_960, 1_450)] {
        let sizes = PacketSizes::default();
        learn(&sizes, &syn(Some(mss)));
        let cut = cut_by(&sizes, &mut whole(6, 16, &TIMESTAMPS, 64_000));
        assert_eq!(cut, (largest, largest as u16 - 52));
    }
    // RFC 9293 section 3.7.1: without the option 536.
    let sizes = PacketSizes::default();
    learn(&sizes, &syn(None));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &[], 64_000)), (576, 536));
}

#[test]
fn a_super_packet_no_larger_than_the_device_takes_is_cut_too() {
    let sizes = PacketSizes::default();
    learn(&sizes, &syn(Some(460)));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &TIMESTAMPS, 1_344)), (500, 448));
    // One that has its checksum is a peer's single packet.
    let mut single = transport_packet(6, &TIMESTAMPS, &[0x5a; 1_344]);
    assert_eq!(cut_by(&sizes, &mut single), (1_396, 0));
}

#[test]
fn a_receiver_that_asks_for_next_to_nothing_gets_64_bytes_a_segment() {
    let sizes = PacketSizes::default();
    learn(&sizes, &syn(Some(1)));
    let mut packet = whole(6, 16, &[1; 40], 2_000);
    assert_eq!(cut_by(&sizes, &mut packet), (20 + 60 + 64, 64));
}

#[test]
fn a_connection_nobody_has_heard_of_is_cut_to_what_every_host_takes() {
    let sizes = PacketSizes::default();
    learn(&sizes, &reversed(syn(Some(1_360))));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &TIMESTAMPS, 64_000)), (576, 524));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &TIMESTAMPS, 1_300)), (1_352, 0));
    let mut over_v6 = over_ipv6(&transport_packet(6, &TIMESTAMPS, &[0x5a; 60_000]));
    assert_eq!(cut_by(&sizes, &mut over_v6), (1_280, 1_208));
}

/// Outbound, a router's word that packets of the connection must not be larger than `mtu`.
fn frag_needed(mtu: u16) -> Vec<u8> {
    let [m0, m1] = mtu.to_be_bytes();
    let mut packet = crate::testing::packet([10, 5, 1, 1], [10, 5, 2, 2], 64, 20);
    packet[9] = 1;
    packet.extend([3, 4, 0, 0, 0, 0, m0, m1]);
    packet.extend(&transport_packet(6, &[], &[7; 1_000])[..28]);
    packet[3] = packet.len() as u8;
    packet
}

#[test]
fn a_router_behind_this_host_may_ask_for_less() {
    let sizes = PacketSizes::default();
    learn(&sizes, &frag_needed(1_300));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &[], 9_000)).0, 1_300);
    learn(&sizes, &syn(Some(1_360)));
    learn(&sizes, &frag_needed(1_380));
    assert_eq!(cut_by(&sizes, &mut whole(6, 16, &[], 9_000)).0, 1_380);
    // More is not believed, nor nothing, nor less than hosts believe: anybody may write such errors.
    for (told, largest) in [(9_000, 1_380), (0, 1_380), (1, 552), (68, 552)] {
        learn(&sizes, &frag_needed(told));
        assert_eq!(cut_by(&sizes, &mut whole(6, 16, &[], 9_000)).0, largest);
    }
    // Of the same connection over IPv6.
    let mut offender = over_ipv6(&transport_packet(6, &[], &[7; 1_000]));
    let mut message = vec![2, 0, 0, 0, 0, 0, 5, 20];
    message.extend(&offender[..100]);
    let mut error = offender[..40].to_vec();
    error[6] = 58;
    error[5] = message.len() as u8;
    error[4] = 0;
    error.extend(&message);
    learn(&sizes, &error);
    assert_eq!(cut_by(&sizes, &mut offender).0, 1_060);
    let mut large = over_ipv6(&transport_packet(6, &[], &[7; 5_000]));
    assert_eq!(cut_by(&sizes, &mut large).0, 1_300);
    error[40 + 6..40 + 8].copy_from_slice(&68u16.to_be_bytes());
    learn(&sizes, &error);
    let mut large = over_ipv6(&transport_packet(6, &[], &[7; 5_000]));
    assert_eq!(cut_by(&sizes, &mut large).0, 1_280);
}

#[test]
fn connections_do_not_answer_for_one_another() {
    let sizes = PacketSizes::default();
    for number in 0..2_000u16 {
        let mut packet = syn(Some(1_000 + number % 300));
        packet[22..24].copy_from_slice(&number.to_be_bytes());
        learn(&sizes, &packet);
    }
    let (mut known, mut unknown) = (0, 0);
    for number in 0..2_000u16 {
        let mut packet = whole(6, 16, &[], 9_000);
        packet[20..22].copy_from_slice(&number.to_be_bytes());
        let pseudo = Sum::new().with(&packet[12..20]).with_u16(6).with_u16(9_020).fold();
        packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
        match cut_by(&sizes, &mut packet).0 {
            576 => unknown += 1,
            size => {
                assert_eq!(size, 1_040 + usize::from(number % 300));
                known += 1;
            }
        }
    }
    // What takes another's place leaves that unknown, never wrong.
    assert!(known > 1_500 && known + unknown == 2_000, "{known} known, {unknown} not");
}

#[test]
fn behind_a_routing_header_the_checksum_of_the_last_destination_is_finished() {
    // RFC 8754 section 2.1: the last segment is the first in the list.
    let right = over_ipv6(&transport_packet(6, &[], &[7; 33]));
    for (kind, segments) in [(4, [24..40, 8..24]), (0, [8..24, 24..40]), (2, [8..8, 24..40])] {
        let mut packet = right.clone();
        let mut routing = vec![6, 0, kind, 1, 1, 0, 0, 0];
        segments.iter().for_each(|place| routing.extend(&right[place.clone()]));
        routing[1] = (routing.len() / 8 - 1) as u8;
        make_partial(&vnet(Gso::None, 0, 40), &mut packet);
        let added = routing.len();
        packet.splice(40..40, routing);
        (packet[5], packet[6], packet[39]) = (packet[5] + added as u8, 43, 0x77);
        let header = ipv6::Header::parse(&packet).unwrap();
        let sizes = PacketSizes::default();
        let vnet = prepare(&header, &mut packet, known(None, &sizes)).unwrap();
        assert_eq!((vnet.flags, usize::from(vnet.checksum_start)), (1, 40 + added), "{kind}");
        let mut finished = vec![0; packet.len()];
        vnet.copy_finished(&mut finished, &packet).unwrap();
        assert_eq!(finished[40 + added..], right[40..]);
    }
}

#[test]
fn uso_cmsg_with_the_inner_size_cuts_datagrams_where_they_end() {
    let mut packet = whole(17, 6, &[], 40_000);
    let vnet = prepared(&mut packet, Some(1_000)).unwrap();
    assert_eq!((vnet.gso, vnet.gso_size, vnet.header_len), (Gso::UdpL4, 1_000, 28));
    assert_eq!(lengths(&packet, &vnet), [1_028; 40]);
    // Also where all of them together are not larger than the device takes.
    let mut packet = whole(17, 6, &[], 900);
    assert_eq!(prepared(&mut packet, Some(300)).unwrap().gso, Gso::UdpL4);
    assert_eq!(prepared(&mut packet, None).unwrap().gso, Gso::None);
}

#[test]
fn a_checksum_that_was_finished_is_put_back_if_it_was_right() {
    for (protocol, offset, segment_len) in [(6, 16, None), (17, 6, Some(1_000))] {
        let mut packet = transport_packet(protocol, &[], &[0x5a; 5_000]);
        let vnet = prepared(&mut packet, segment_len).unwrap();
        assert!(vnet.needs_checksum());
        assert_eq!(packet, whole(protocol, offset, &[], 5_000));
        packet[4_000] ^= 1;
        let mut wrong = transport_packet(protocol, &[], &[0x5a; 5_000]);
        wrong[4_000] ^= 1;
        assert_eq!(prepared(&mut wrong, segment_len), Err(DropReason::Oversized));
    }
}

#[test]
fn what_cannot_be_cut_goes_on_whole_for_the_kernel_to_fragment_or_answer() {
    let whole_goes_on = |packet: &mut Vec<u8>, segment_len| {
        let vnet = prepared(packet, segment_len).unwrap();
        assert_eq!(vnet.gso, Gso::None);
        vnet
    };
    let mut no_segments = whole(17, 6, &[], 5_000);
    assert!(whole_goes_on(&mut no_segments, None).needs_checksum());
    let mut other = whole(17, 6, &[], 5_000);
    other[9] = 1;
    whole_goes_on(&mut other, Some(1_000));
    let mut fragment = whole(6, 16, &[], 5_000);
    fragment[6] = 0x20;
    whole_goes_on(&mut fragment, None);
    let mut cut = whole(6, 16, &[], 5_000);
    cut[32] = 0x40;
    whole_goes_on(&mut cut, None);
    // Datagrams that are larger than the device's MTU keep their length.
    let mut datagrams = whole(17, 6, &[], 5_000);
    assert_eq!(prepared(&mut datagrams, Some(1_430)).unwrap().gso_size, 1_430);
}

#[test]
fn nothing_that_a_packet_may_say_panics() {
    let mut state = 12u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let sizes = PacketSizes::default();
    for number in 0..60_000 {
        let is_v6 = number % 2 == 0;
        let len = if is_v6 { 40 } else { 20 } + usize::from(byte());
        let mut packet: Vec<u8> = (0..len).map(|_| byte()).collect();
        let protocol = [6, 17, 1, 58, 43, 60, 0, 44][usize::from(byte() % 8)];
        if is_v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            packet[6] = protocol;
        } else {
            packet[0] = 0x40 | (5 + byte() % 3);
            packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            packet[9] = protocol;
        }
        // Errors, and routing headers that lead on.
        let start = if is_v6 { 40 } else { 20 };
        if let Some([first, second, third, ..]) = packet.get_mut(start..) {
            match protocol {
                1 => (*first, *second) = (3, 4),
                58 => *first = 2,
                43 => (*first, *second, *third) = (6, *second % 8, *third % 5),
                _ => {}
            }
        }
        let segment_len = Some(usize::from(byte())).filter(|len| *len > 0);
        let Known { mtu, .. } = known(None, &sizes);
        if is_v6 {
            let Ok(header) = ipv6::Header::parse(&packet) else { continue };
            sizes.learn(&header, &packet);
            let _any =
                prepare(&header, &mut packet, Known { segment_len, mtu: mtu / 8, sizes: &sizes });
        } else {
            let Ok(header) = ipv4::Header::parse(&packet) else { continue };
            sizes.learn(&header, &packet);
            let _any =
                prepare(&header, &mut packet, Known { segment_len, mtu: mtu / 8, sizes: &sizes });
        }
    }
}
