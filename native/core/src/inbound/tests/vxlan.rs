//! Inbound where datagrams are VXLAN.

use tunneld_wire::virtio_net_hdr::Gso;

use super::*;
use crate::encapsulation::{Frames, Vtep};
use crate::outbound::Outbound;
use crate::packet_sizes::PacketSizes;
use crate::testing::vtep;
use crate::testing::{framed, transport_packet, vxlan_change};

fn bench(check: SourceCheck) -> Bench {
    let mut tables = Tables::new(1);
    let fib = tables.commit(vxlan_change(check)).unwrap();
    let mut inbound = Inbound::new(0, Arc::default());
    inbound.set_coalescing(Kinds { tcp: true, udp: true });
    Bench { inbound, fib, tables }
}

impl Bench {
    /// Hands over a message of the kernel, which says that it consists of datagrams that long.
    fn message(&mut self, message: &[u8], segment_len: Option<usize>) -> Vec<u8> {
        let (mut memory, outer) = (message.to_vec(), SocketAddr::from((UNDERLAY_B, 8472)));
        let place = 0..memory.len();
        self.inbound.handle(&self.fib, Via::Plain, outer, &mut memory, place, segment_len, NOW_NS);
        memory
    }

    /// What goes to the device: places, and what is said with each where it goes alone.
    fn singles(&self) -> Vec<(Range<usize>, VnetHeader)> {
        let deliveries = self.inbound.deliveries();
        deliveries.iter().flat_map(|one| deliveries.singles(one)).collect()
    }
}

/// Returns `packet` with only the pseudo-header's sum in its transport checksum.
fn partial(mut packet: Vec<u8>) -> Vec<u8> {
    let header = ipv4::Header::parse(&packet).unwrap();
    let pseudo = ip::Header::pseudo_header(&header).with_u16(packet.len() as u16 - 20).fold();
    let field = if packet[9] == ip::PROTOCOL_TCP { 36 } else { 26 };
    packet[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    packet
}

#[test]
fn an_honest_frame_is_delivered_without_its_headers_and_with_its_hops() {
    let mut bench = bench(SourceCheck::Strict);
    for hop_limit in [63, 1] {
        let datagram = framed(&packet(AT_B, CONTAINER, hop_limit, 100));
        assert_eq!(bench.handle(UNDERLAY_B, &datagram), datagram, "no hop is taken");
    }
    assert_eq!(
        bench.singles(),
        [(22..122, VnetHeader::default()), (22..122, VnetHeader::default())]
    );
    let reading = bench.inbound.counters();
    assert_eq!((reading.packets.read(), reading.bytes.read()), (2, 244));
}

#[test]
fn padding_goes_no_further() {
    let mut bench = bench(SourceCheck::Strict);
    let padded = [framed(&packet(AT_B, CONTAINER, 63, 28)), vec![0; 18]].concat();
    bench.handle(UNDERLAY_B, &padded);
    assert_eq!(bench.singles()[0].0, 22..50);
    bench.inbound.delivered(&bench.fib, &bench.inbound.deliveries()[0], 1, 28, 1);
    assert_eq!(bench.tables.adjacencies().next().unwrap().2.read().rx_bytes, 28);
}

#[test]
fn every_check_of_raw_packets_holds_behind_the_headers() {
    let check = SourceCheck::Strict;
    let from = |source, to| framed(&packet(source, to, 63, 100));
    for (outer, datagram, reason) in [
        (STRANGER, from(AT_B, CONTAINER), DropReason::UnknownPeer),
        (UNDERLAY_B, from([9, 9, 9, 9], CONTAINER), DropReason::SourceNotLeased),
        (UNDERLAY_B, from([10, 5, 1, 7], CONTAINER), DropReason::SourceIsLocal),
        (UNDERLAY_B, from(AT_C, CONTAINER), DropReason::SourceOfOtherPeer),
        (UNDERLAY_B, from(AT_B, AT_C), DropReason::WrongDestination),
        (UNDERLAY_B, from(AT_B, CONTAINER)[..121].to_vec(), DropReason::InnerLengthTooLong),
        (UNDERLAY_B, packet(AT_B, CONTAINER, 63, 100), DropReason::VniFlagClear),
        (UNDERLAY_B, Vec::new(), DropReason::TruncatedFrame),
    ] {
        let mut bench = bench(check);
        bench.handle(outer, &datagram);
        bench.dropped(reason);
    }
}

#[test]
fn headers_that_passed_speak_for_none_of_the_next_batch() {
    let mut bench = bench(SourceCheck::Strict);
    let datagram = framed(&packet(AT_B, CONTAINER, 63, 100));
    bench.handle(UNDERLAY_B, &datagram);
    assert_eq!(bench.inbound.deliveries().len(), 1);
    bench.inbound.clear();
    let mut change = vxlan_change(SourceCheck::Strict);
    let vni = tunneld_wire::vxlan::Vni::new(8).unwrap();
    change.settings.as_mut().unwrap().vtep = Some(Vtep { vni, ..vtep() });
    bench.fib = bench.tables.commit(change).unwrap();
    bench.handle(UNDERLAY_B, &datagram);
    bench.dropped(DropReason::WrongVni);
}

#[test]
fn a_train_of_frames_is_split_behind_each_head() {
    let packets: Vec<_> = (0..5u8).map(|n| packet(AT_B, CONTAINER, 63 - n, 100)).collect();
    let train: Vec<u8> = packets.iter().flat_map(|packet| framed(packet)).collect();
    assert_eq!(Frames::new(vtep()).split_len(&train, Some(122)), 122);
    let mut bench = bench(SourceCheck::Strict);
    bench.message(&train, Some(122));
    let places: Vec<_> = bench.singles().into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, [22..122, 144..244, 266..366, 388..488, 510..610]);
}

#[test]
fn a_train_of_frames_is_split_whatever_the_first_says_of_its_length() {
    let good = framed(&packet(AT_B, CONTAINER, 63, 100));
    // One more than there is; many more; the whole train but one byte; the most; nothing.
    for (says, is_padding) in [
        (101u16, false),
        (1_100, false),
        (465, false),
        (467, false),
        (0xffff, false),
        (0, false),
        (99, true),
    ] {
        let mut train: Vec<u8> = std::iter::repeat_n(&good[..], 4).flatten().copied().collect();
        train[24..26].copy_from_slice(&says.to_be_bytes());
        let mut bench = bench(SourceCheck::Strict);
        bench.message(&train, Some(122));
        let counters = bench.inbound.counters();
        assert_eq!((bench.singles().len(), counters.packets.read()), (3, 4), "{says}");
        let reason = match (says, is_padding) {
            (0, _) => DropReason::InnerLengthTooShort,
            // Cut as padding, so that the header's checksum tells.
            (_, true) => DropReason::BadHeaderChecksum,
            _ => DropReason::InnerLengthTooLong,
        };
        assert_eq!(counters.drops(reason).read(), 1, "{says}");
    }
}

#[test]
fn datagram_of_64_kib_without_cmsg_goes_on_as_a_super_packet_of_the_connections_mss() {
    let whole = framed(&partial(transport_packet(6, &[], &[0x5a; 60_000])));
    assert_eq!(Frames::new(vtep()).split_len(&whole, None), whole.len());
    let mut bench = bench(SourceCheck::Strict);
    let sizes = Arc::<PacketSizes>::default();
    let mut outbound = Outbound::new(0, Arc::default()).telling(Arc::clone(&sizes));
    bench.inbound = Inbound::new(0, Arc::default()).cutting_by(sizes);
    for (mss, gso_size) in [(None, 536), (Some(1_360u16), 1_360)] {
        if let Some(mss) = mss {
            let [m0, m1] = mss.to_be_bytes();
            let mut syn = transport_packet(6, &[2, 4, m0, m1], &[]);
            (syn[14], syn[18], syn[33]) = (1, 2, 0x12);
            syn[20..24].rotate_left(2);
            outbound.handle(&bench.fib, VnetHeader::default(), &syn, NOW_NS);
        }
        bench.message(&whole, None);
        let [(place, vnet)] = &bench.singles()[..] else { panic!("one packet") };
        assert_eq!(*place, 22..whole.len());
        assert_eq!((vnet.gso, vnet.gso_size), (Gso::TcpV4, gso_size));
        bench.inbound.clear();
    }
}

#[test]
fn uso_cmsg_with_the_inner_size_goes_on_as_a_super_packet_of_that_size() {
    let whole = framed(&partial(transport_packet(17, &[], &[0x5a; 40_000])));
    assert_eq!(Frames::new(vtep()).split_len(&whole, Some(1_000)), whole.len());
    let mut bench = bench(SourceCheck::Strict);
    bench.message(&whole, Some(1_000));
    let [(place, vnet)] = &bench.singles()[..] else { panic!("one packet") };
    assert_eq!(*place, 22..whole.len());
    assert_eq!((vnet.gso, vnet.gso_size), (Gso::UdpL4, 1_000));
    // The size of a frame around one datagram is not that of the datagram.
    let single = framed(&packet(AT_B, CONTAINER, 63, 1_028));
    assert_eq!(Frames::new(vtep()).split_len(&single, Some(1_050)), 1_050);
}

#[test]
fn partial_packets_of_a_flow_are_joined_and_can_still_go_singly() {
    let segment = |number: u32| {
        let mut packet = transport_packet(6, &[], &[number as u8; 200]);
        packet[24..28].copy_from_slice(&(number * 200).to_be_bytes());
        framed(&partial(packet))
    };
    let train: Vec<u8> = (0..5).flat_map(segment).collect();
    let mut bench = bench(SourceCheck::Strict);
    let memory = bench.message(&train, Some(train.len() / 5));
    let deliveries = bench.inbound.deliveries();
    let [delivery] = &deliveries[..] else { panic!("one delivery") };
    let headers = deliveries.headers(delivery, &memory).unwrap();
    assert_eq!((delivery.count, headers.vnet.gso_size), (5, 200));
    for (_, vnet) in bench.singles() {
        assert!(vnet.needs_checksum());
        assert_eq!((vnet.gso, vnet.checksum_start, vnet.checksum_offset), (Gso::None, 20, 16));
    }
}

#[test]
fn a_super_packet_of_the_kernel_keeps_its_place_in_its_flow() {
    let segment = |first: u32, len| {
        let mut packet = transport_packet(6, &[], &vec![0x5a; len]);
        packet[24..28].copy_from_slice(&first.to_be_bytes());
        framed(&partial(packet))
    };
    let parts = [segment(0, 200), segment(200, 5_000), segment(5_200, 200), segment(5_400, 200)];
    let mut memory = parts.concat();
    let mut bench = bench(SourceCheck::Strict);
    let mut start = 0;
    for part in &parts {
        let (outer, place) = (SocketAddr::from((UNDERLAY_B, 8472)), start..start + part.len());
        bench.inbound.handle(&bench.fib, Via::Plain, outer, &mut memory, place, None, NOW_NS);
        start += part.len();
    }
    let counts: Vec<_> = bench.inbound.deliveries().iter().map(|one| one.count).collect();
    assert_eq!(counts, [1, 1, 2]);
}
