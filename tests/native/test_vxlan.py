"""VXLAN datagrams: what the engine sends, what it takes, and why it takes no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q
from scapy.packet import Raw

from testbed.netns import Namespace
from tests.native.conftest import PeerSocket
from tests.native.hosts import Host
from tests.native.packets import inner, sized
from tests.native.super_packets import udp_super_packet
from tests.native.vxlan import (
    HERE,
    HONEST,
    MTU_BYTES,
    OTHER_MAC,
    OUR_MAC,
    OUR_MAC_V6,
    PACKET,
    PEER_MAC,
    STRANGER,
    VNI,
    B,
    C,
    framed,
    network,
)


def changed(place: int, value: int) -> bytes:
    """Returns the honest datagram with one byte of its VXLAN header set."""
    return HONEST[:place] + bytes([value]) + HONEST[place + 1 :]


@pytest.fixture
def host(space: Namespace) -> Iterator[Host]:
    with Host(space, network()) as made:
        yield made


def test_a_packet_leaves_as_scapy_writes_it_without_losing_a_hop(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    for size in (28, 100, MTU_BYTES):
        packet = sized("10.5.1.2", "10.5.2.2", size)
        host.write(packet)
        assert peer.recv(70_000) == framed(packet, src=OUR_MAC, dst=PEER_MAC)
    host.wait_for_traffic("b", "tx_bytes", 28 + 100 + MTU_BYTES)
    reading = host.traffic("b")
    assert (reading["tx_packets"], reading["tx_bytes"]) == (3, 28 + 100 + MTU_BYTES)
    assert host.drops() == {}


def test_the_last_hop_is_not_taken(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket(B)
    host.write(inner("10.5.1.2", "10.5.2.2", ttl=1))
    assert peer.recv(70_000)[30] == 1
    peer.sendto(framed(inner("10.5.2.2", "10.5.1.2", ttl=1)), HERE)
    assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=1)


def test_a_super_packet_leaves_as_a_train_of_frames(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket(B)
    peer.setsockopt(17, 104, 1)  # UDP_GRO
    header, packet = udp_super_packet(bytes(12_000), 1_000)
    host.write(packet, header)
    train, control, *_ = peer.recvmsg(70_000, 64)
    size = 22 + 28 + 1_000
    assert len(train) == 12 * size
    assert [int.from_bytes(data[:4], "little") for *_, data in control] == [size]
    head = framed(b"", src=OUR_MAC, dst=PEER_MAC)
    for number in range(12):
        frame = train[number * size : (number + 1) * size]
        assert frame[:22] == head
        checksum = int.from_bytes(frame[48:50], "big")
        again = IP(frame[22:])
        del again["UDP"].chksum
        assert IP(bytes(again))["UDP"].chksum == checksum


def test_an_honest_frame_arrives_and_padding_behind_it_does_not(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    for size in (28, 46, 100, MTU_BYTES):
        packet = sized("10.5.2.2", "10.5.1.2", size)
        # An Ethernet frame has 60 bytes at least: 46 behind its header.
        peer.sendto(framed(packet + bytes(max(0, 46 - size))), HERE)
        assert host.read() == packet
        peer.sendto(framed(packet + b"\xff" * 7), HERE)
        assert host.read() == packet
    host.wait_for_traffic("b", "rx_bytes", 2 * (28 + 46 + 100 + MTU_BYTES))
    reading = host.traffic("b")
    assert (reading["rx_packets"], reading["rx_bytes"]) == (8, 2 * (28 + 46 + 100 + MTU_BYTES))
    assert host.drops() == {}


def test_packet_beyond_the_devices_mtu_is_left_to_the_kernel(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    for size_bytes in (MTU_BYTES + 1, 9_000):
        large = sized("10.5.2.2", "10.5.1.2", size_bytes)
        peer.sendto(framed(large), HERE)
        assert host.read() == large
    assert host.drops() == {}


DROPPED = [
    ("truncated_frame", "no byte at all", B, b""),
    ("truncated_frame", "half a VXLAN header", B, HONEST[:7]),
    ("truncated_frame", "no Ethernet header", B, HONEST[:8]),
    ("truncated_frame", "half an Ethernet header", B, HONEST[:21]),
    ("vni_flag_clear", "I flag", B, changed(0, 0)),
    ("vni_flag_clear", "all flags but I", B, changed(0, 0xF7)),
    ("wrong_vni", "another", B, framed(vni=VNI + 1)),
    ("wrong_vni", "in the upper bits", B, framed(vni=VNI | 1 << 23)),
    ("reserved_bits", "first flag", B, changed(0, 0x88)),
    ("reserved_bits", "flags of group policy", B, changed(1, 0x08)),
    ("reserved_bits", "behind the flags", B, changed(3, 1)),
    ("reserved_bits", "behind the VNI", B, changed(7, 1)),
    ("vlan_tag", "802.1Q", B, framed(Dot1Q(vlan=5) / Raw(PACKET), type=0x8100)),
    ("vlan_tag", "802.1ad", B, framed(Dot1Q(vlan=5) / Raw(PACKET), type=0x88A8)),
    ("arp_inside", "for all", B, framed(ARP(), dst="ff:ff:ff:ff:ff:ff", type=0x0806)),
    ("arp_inside", "for us", B, framed(ARP(), type=0x0806)),
    ("unknown_ethertype", "LLDP", B, framed(type=0x88CC)),
    ("unknown_ethertype", "a length", B, framed(type=46)),
    ("own_mac", "of IPv4", B, framed(src=OUR_MAC)),
    ("own_mac", "of IPv6", B, framed(src=OUR_MAC_V6)),
    ("wrong_mac", "another's", B, framed(dst=OTHER_MAC)),
    ("wrong_mac", "broadcast", B, framed(dst="ff:ff:ff:ff:ff:ff")),
    ("wrong_mac", "multicast", B, framed(dst="01:00:5e:00:00:01")),
    ("wrong_mac", "that of IPv6", B, framed(dst=OUR_MAC_V6)),
    ("wrong_mac", "IPv6 for that of IPv4", B, framed(b"\x60" + bytes(60), type=0x86DD)),
    ("ethertype_mismatch", "IPv6 as IPv4", B, framed(b"\x60" + bytes(60))),
    ("ethertype_mismatch", "IPv4 as IPv6", B, framed(dst=OUR_MAC_V6, type=0x86DD)),
    ("ethertype_mismatch", "neither", B, framed(b"\x00" + PACKET[1:])),
    ("empty", "frame", B, framed(b"")),
    ("truncated", "inner header", B, framed(PACKET[:19])),
    ("bad_header_length", "of the inner packet", B, framed(b"\x44" + PACKET[1:])),
    ("inner_length_too_long", "by a byte", B, framed(PACKET[:-1])),
    ("bad_header_checksum", "of the inner packet", B, framed(PACKET[:8] + b"\x63" + PACKET[9:])),
    ("unknown_peer", "sends", STRANGER, HONEST),
    ("source_not_leased", "inside", B, framed(inner("192.0.2.1", "10.5.1.2"))),
    ("source_is_local", "inside", B, framed(inner("10.5.1.3", "10.5.1.2"))),
    ("source_of_other_peer", "inside", C, HONEST),
    ("wrong_destination", "inside", B, framed(inner("10.5.2.2", "10.5.3.2"))),
]


@pytest.mark.parametrize(
    ("reason", "source", "datagram"),
    [(reason, source, datagram) for reason, _, source, datagram in DROPPED],
    ids=[f"{reason}: {what}" for reason, what, *_ in DROPPED],
)
def test_each_dishonest_datagram_has_its_own_reason_and_disturbs_nobody(
    host: Host, peer_socket: PeerSocket, reason: str, source: str, datagram: bytes
) -> None:
    sockets = {address: peer_socket(address) for address in (B, C, STRANGER)}
    sockets[source].sendto(datagram, HERE)
    sockets[B].sendto(HONEST, HERE)
    assert host.read() == PACKET
    host.wait_for_drop(reason)
    assert host.drops() == {reason: 1}
    assert host.reads_nothing()


@pytest.mark.parametrize(("place", "value"), [(0, 0x88), (1, 0x40), (1, 0x08), (2, 1), (3, 1)])
def test_bits_of_the_group_policy_pass_where_it_is_spoken(
    space: Namespace, peer_socket: PeerSocket, place: int, value: int
) -> None:
    with Host(space, network(gbp=True)) as host:
        peer = peer_socket(B)
        peer.sendto(changed(place, value), HERE)
        assert host.read() == PACKET
        peer.sendto(changed(1, 0x01), HERE)
        peer.sendto(changed(7, 0x01), HERE)
        host.wait_for_drop("reserved_bits", 2)


def test_a_train_with_a_hostile_frame_in_it_loses_only_that(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    packets = [inner("10.5.2.2", "10.5.1.2", payload=bytes([number] * 100)) for number in range(5)]
    frames = [framed(packet) for packet in packets]
    frames[2] = framed(packets[2], vni=VNI + 1)
    peer.setsockopt(17, 103, len(frames[0]))  # UDP_SEGMENT
    peer.sendto(b"".join(frames), HERE)
    assert [host.read() for _ in range(4)] == packets[:2] + packets[3:]
    assert host.drops() == {"wrong_vni": 1}


def test_an_unfinished_checksum_goes_to_the_device_to_be_finished(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    header, packet = udp_super_packet(bytes(100), 1_000)
    turned = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
    peer.sendto(framed(turned), HERE)
    # The same but for the segmentation: one packet, its checksum at 20 + 6.
    assert host.device.recv(70_000) == header[:1] + bytes(5) + header[6:] + turned
