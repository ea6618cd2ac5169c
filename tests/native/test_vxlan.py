"""VXLAN datagrams: what the engine sends, what it takes, and why it takes no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.native.conftest import PeerSocket
from tests.native.hosts import (
    TIMEOUT_S,
    Host,
    adjacency,
    in_order,
    inside,
    settings,
    udp_socket,
    vxlan_socket,
)
from tests.native.packets import inner, sized
from tests.native.super_packets import udp_super_packet
from tests.support.netns import Namespace
from tunneld import _native

VNI, MTU_BYTES = 7, 1450
OUR_MAC, OUR_MAC_V6 = "0e:2a:00:00:00:01", "0e:2a:00:00:06:01"
PEER_MAC, OTHER_MAC = "0e:2a:00:00:00:02", "0e:2a:00:00:00:09"
HERE = ("127.0.0.1", 8285)
B, C, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.9"
PACKET = inner("10.5.2.2", "10.5.1.2")


def network(*, gbp: bool = False, check: str = "strict") -> _native.Change:
    vtep: _native.Vtep = {"vni": VNI, "gbp": gbp, "mac": OUR_MAC, "mac_v6": OUR_MAC_V6}
    return {
        "settings": settings(check, MTU_BYTES, vtep),
        "put_adjacencies": [
            adjacency("b", B, MTU_BYTES, vtep_mac=PEER_MAC),
            adjacency("c", C, 1400, vtep_mac=OTHER_MAC),
        ],
        "put_entries": [
            {"prefix": "10.5.1.0/24", "target": "local"},
            {"prefix": "10.5.2.0/24", "target": "b"},
            {"prefix": "10.5.3.0/24", "target": "c"},
        ],
    }


def framed(payload: bytes | Packet = PACKET, *, vni: int = VNI, **frame: Any) -> bytes:
    """Returns a datagram from peer b, all of it right but for what is said otherwise."""
    header: dict[str, Any] = {"src": PEER_MAC, "dst": OUR_MAC, "type": 0x0800}
    ethernet = Ether(**header | frame)
    if isinstance(payload, bytes):
        payload = Raw(payload)
    return bytes(VXLAN(flags=0x08, vni=vni) / ethernet / payload)


HONEST = framed()


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


TOO_LARGE = sized("10.5.2.2", "10.5.1.2", MTU_BYTES + 1)
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
    ("oversized", "UDP that is no super-packet", B, framed(TOO_LARGE)),
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


IPV6_HERE, IPV6_B, IPV6_STRANGER = "2001:db8::1", "2001:db8::2", "2001:db8::9"


@pytest.fixture
def ipv6_space(rig_space: Namespace) -> Namespace:
    for address in (IPV6_HERE, IPV6_B, IPV6_STRANGER):
        rig_space.add_ipv6(f"{address}/128", "lo")
    return rig_space


def both_families(space: Namespace) -> Host:
    """A host with an underlay of each family."""
    with inside(space):
        sockets = [udp_socket("127.0.0.1"), vxlan_socket(IPV6_HERE, 8285)]
    return Host(space, ipv6_network(), sockets)


def ipv6_network() -> _native.Change:
    change = network()
    change["put_adjacencies"] = [
        adjacency("b", IPV6_B, MTU_BYTES, vtep_mac=PEER_MAC),
        adjacency("c", C, 1400, vtep_mac=OTHER_MAC),
    ]
    return change


def test_both_families_of_the_underlay_are_received_and_sent_by(ipv6_space: Namespace) -> None:
    with inside(ipv6_space):
        b, c = vxlan_socket(IPV6_B, 8285), vxlan_socket(C, 8285)
        stranger = vxlan_socket(IPV6_STRANGER, 8285)
    with b, c, stranger, both_families(ipv6_space) as host:
        for sock in (b, c):
            sock.settimeout(TIMEOUT_S)
        for number in range(20):
            by_b = inner("10.5.2.2", "10.5.1.2", payload=bytes([number]))
            by_c = inner("10.5.3.2", "10.5.1.2", payload=bytes([number]))
            b.sendto(framed(by_b), (IPV6_HERE, 8285))
            assert host.read() == by_b
            c.sendto(framed(by_c, src=OTHER_MAC), HERE)
            assert host.read() == by_c
            host.write(inner("10.5.1.2", "10.5.2.2"))
            host.write(inner("10.5.1.2", "10.5.3.2"))
            assert b.recv(2000)[22:] == inner("10.5.1.2", "10.5.2.2")
            assert c.recv(2000)[22:] == inner("10.5.1.2", "10.5.3.2")
        assert host.drops() == {}
        # The outer source is checked in its own family.
        stranger.sendto(HONEST, (IPV6_HERE, 8285))
        host.wait_for_drop("unknown_peer")
        c.sendto(HONEST, HERE)
        host.wait_for_drop("source_of_other_peer")
        assert host.reads_nothing()


def test_a_peer_in_a_family_without_a_socket_is_unreachable(space: Namespace) -> None:
    with Host(space, ipv6_network()) as host:
        host.write(inner("10.5.1.2", "10.5.2.2"))
        host.wait_for_drop("underlay_unreachable")
        assert host.drops() == {"underlay_unreachable": 1}


def test_a_size_that_an_ipv6_underlay_refuses_is_reported_and_keeps_gso(
    ipv6_space: Namespace,
) -> None:
    ipv6_space.run("ip", "link", "set", "lo", "mtu", "1300")
    for address in (IPV6_HERE, IPV6_B):
        ipv6_space.add_ipv6(f"{address}/128", "lo")
    with inside(ipv6_space):
        peer = vxlan_socket(IPV6_B, 8285)
    with peer, both_families(ipv6_space) as host:
        peer.settimeout(TIMEOUT_S)
        # Ten segments that do not fit, and a short one that does.
        header, packet = udp_super_packet(bytes(14_100), 1_400)
        host.write(packet, header)
        assert len(peer.recv(70_000)) == 22 + 28 + 100
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"], event["size_bytes"]) == ("path_mtu", "b", 1428)
        assert host.drops() == {"too_big_for_underlay": 10}
        assert host.engine.offloads()["udp_gso"] == "on"
        header, packet = udp_super_packet(bytes(12_000), 1_200)
        host.write(packet, header)
        assert [len(peer.recv(70_000)) for _ in range(10)] == [22 + 1_228] * 10


def test_a_flow_keeps_its_source_port_and_flows_are_spread_over_all(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    with inside(space):
        sockets = [udp_socket("127.0.0.1", 0 if number else 8285) for number in range(5)]
    ports = [sock.getsockname()[1] for sock in sockets]
    with Host(space, network(), sockets) as host, in_order(host.engine):
        for number in range(400):
            address = f"10.5.2.{2 + number % 100}"
            host.write(inner("10.5.1.2", address, payload=number.to_bytes(4, "big")))
        got = [peer.recvfrom(70_000) for _ in range(400)]
    flows: dict[bytes, list[tuple[int, int]]] = {}
    for frame, (_, port) in got:
        number = int.from_bytes(frame[-4:], "big")
        flows.setdefault(frame[38:42], []).append((number, port))
    assert len(flows) == 100
    for packets in flows.values():
        assert [number for number, _ in packets] == sorted(number for number, _ in packets)
        assert len({port for _, port in packets}) == 1
    used = {packets[0][1] for packets in flows.values()}
    assert used == set(ports[1:]), "all that only send, and none else"


def test_a_stranger_at_a_port_that_only_sends_is_not_heard(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    with inside(space):
        sockets = [udp_socket("127.0.0.1", 0 if number else 8285) for number in range(2)]
    port = sockets[1].getsockname()[1]
    with Host(space, network(), sockets) as host:
        peer.sendto(HONEST, ("127.0.0.1", port))
        peer.sendto(framed(sized("10.5.2.2", "10.5.1.2", 99)), HERE)
        assert host.read() == sized("10.5.2.2", "10.5.1.2", 99)
        assert host.reads_nothing()
