"""Paths that carry less than the link: how datagrams go about them, and probes that tell."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.packet import Raw

from testbed.narrow_path import FAR, FAR_V6, NEAR, NEAR_V6, narrow_path
from testbed.netns import Rig, inside
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import PORT, TIMEOUT_S, Host, adjacency, settings, udp_socket
from tests.native.packets import inner, inner_v6, sized
from tests.native.vxlan import HERE, B, framed
from tests.native.vxlan import network as vxlan_network
from tunneld import _native

TOKEN = 0x0123_4567_89AB_CDEF


def network(outer_df: str, mtu_bytes: int = 1472) -> _native.Change:
    """The peer `b` at the far end of the path, over IPv4 and over IPv6."""
    return {
        "settings": {**settings(), "icmp_source_v6": "fd00:10:5:1::"},
        "put_adjacencies": [
            {**adjacency("b", str(FAR), mtu_bytes), "outer_df": outer_df},
            {**adjacency("b6", str(FAR_V6), mtu_bytes), "outer_df": outer_df},
        ],
        "put_entries": [
            {"prefix": "10.5.2.0/24", "target": "b"},
            {"prefix": "fd00:10:5:2::/64", "target": "b6"},
        ],
    }


@pytest.fixture
def path(rig: Rig) -> Iterator[tuple[Host, socket.socket, socket.socket]]:
    """The near host, and the peer's sockets over IPv4 and IPv6."""
    near, far = narrow_path(rig)
    with inside(far):
        peer, peer_v6 = udp_socket(str(FAR)), udp_socket(str(FAR_V6))
    with inside(near):
        underlay = [udp_socket(str(NEAR)), udp_socket(str(NEAR_V6))]
    with peer, peer_v6, Host(near, underlay=underlay) as host:
        peer.settimeout(TIMEOUT_S)
        peer_v6.settimeout(TIMEOUT_S)
        yield host, peer, peer_v6


LARGE = sized("10.5.1.2", "10.5.2.2", 1472)


def learn(host: Host, packet: bytes = LARGE) -> None:
    """Has the kernel learn of the path from the router: the first large datagram is lost."""

    def is_refused() -> bool:
        host.write(packet)
        return host.drops().get("too_big_for_underlay", 0) > 0

    wait_until(is_refused, what="the word of the router")


def test_kernels_word_of_the_path_comes_from_the_socket_that_was_refused(
    path: tuple[Host, socket.socket, socket.socket],
) -> None:
    host, peer, _ = path
    host.engine.commit(network("kernel"))
    learn(host)
    [event] = host.engine.drain_events()
    assert (event["adjacency"], event["path_mtu_bytes"]) == ("b", 1400)
    host.write(sized("10.5.1.2", "10.5.2.2", 1372))
    assert len(peer.recv(70_000)) == 1372


def test_datagrams_that_may_be_fragmented_arrive_whole(
    path: tuple[Host, socket.socket, socket.socket],
) -> None:
    host, peer, _ = path
    host.engine.commit(network("clear"))
    for size_bytes in (1472, 100, 1472):
        host.write(sized("10.5.1.2", "10.5.2.2", size_bytes))
        assert len(peer.recv(70_000)) == size_bytes
    assert host.drops() == {}
    # Whoever comes next by the same sockets is not fragmented.
    host.engine.commit(network("kernel"))
    learn(host)


def test_packet_that_must_not_be_told_less_leaves_in_fragments(
    path: tuple[Host, socket.socket, socket.socket],
) -> None:
    """IPv6 senders send 1,280 bytes whatever they are told; IPv4 without DF any size."""
    host, peer, peer_v6 = path
    host.engine.commit(network("kernel"))
    learn(host, inner_v6("fd00:10:5:1::2", "fd00:10:5:2::2", payload=bytes(1400)))
    host.engine.commit(network("kernel", mtu_bytes=1000))
    small = inner_v6("fd00:10:5:1::2", "fd00:10:5:2::2", payload=bytes(1280 - 48))
    host.write(small)
    assert peer_v6.recv(70_000)[40:] == small[40:]
    whole = inner("10.5.1.2", "10.5.2.2", payload=bytes(1400), flags="")
    host.write(whole)
    assert peer.recv(70_000)[28:] == bytes(1400)


def test_word_of_the_kernel_that_probes_refute_is_ignored(
    path: tuple[Host, socket.socket, socket.socket],
) -> None:
    host, peer, _ = path
    host.engine.commit(network("kernel"))
    learn(host)
    before, sent = host.drops(), host.traffic("b")["tx_packets"]
    host.engine.commit(network("probed"))
    host.write(LARGE)
    # It leaves: it is the router that has no room for it.
    host.wait_for_traffic("b", "tx_packets", sent + 1)
    host.write(sized("10.5.1.2", "10.5.2.2", 100))
    assert len(peer.recv(70_000)) == 100
    assert host.drops() == before


def event_of(host: Host) -> _native.Event:
    assert select.select([host.engine.event_fd], [], [], TIMEOUT_S)[0]
    [event] = host.engine.drain_events()
    return event


def test_probe_is_an_echo_request_and_its_answer_an_event(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    for size_bytes in (44, 1472, 9000):
        assert host.engine.probe("10.5.2.0", size_bytes, TOKEN) == 1
        packet = IP(peer.recv(70_000))
        assert (len(packet), packet.src, packet.dst) == (size_bytes, "10.5.1.0", "10.5.2.0")
        assert (packet[ICMP].type, packet[ICMP].code) == (8, 0)
        rebuilt = IP(bytes(packet))
        del rebuilt.chksum, rebuilt[ICMP].chksum
        assert bytes(rebuilt) == bytes(packet), "scapy agrees with the checksums"
        answer = IP(src=packet.dst, dst=packet.src, ttl=64) / ICMP(
            type=0, id=packet[ICMP].id, seq=packet[ICMP].seq
        )
        peer.sendto(bytes(answer / Raw(bytes(packet[ICMP].payload))), ("127.0.0.1", PORT))
        event = event_of(host)
        assert (event["kind"], event["token"], event["path"]) == ("probe_answered", TOKEN, 0)
    assert host.reads_nothing()
    assert (host.drops(), host.engine.take_used()) == ({}, [])
    # What is shorter than an echo request with its token, or leads to nobody, is not sent.
    host.engine.probe("10.5.2.0", 43, TOKEN)
    host.engine.probe("10.5.99.0", 100, TOKEN)
    host.engine.probe("fd00:10:5:2::", 100, TOKEN)
    host.write(inner("10.5.1.2", "10.5.2.2"))
    assert peer.recv(70_000) == inner("10.5.1.2", "10.5.2.2", ttl=63)
    assert host.engine.take_used() == ["b"]
    assert host.engine.take_used() == []


def test_other_echoes_go_to_the_device(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    assert host.engine.probe("10.5.2.0", 100, TOKEN) == 1
    request = IP(peer.recv(70_000))
    data = bytes(request[ICMP].payload)
    others = [
        ("10.5.1.2", ICMP(type=0, id=request[ICMP].id, seq=0) / Raw(data)),
        ("10.5.1.0", ICMP(type=8, id=request[ICMP].id, seq=0) / Raw(data)),
        ("10.5.1.0", ICMP(type=0, id=1, seq=0) / Raw(data)),
        ("10.5.1.0", ICMP(type=0, id=request[ICMP].id, seq=0) / Raw(bytes(len(data)))),
        ("10.5.1.0", ICMP(type=0, id=request[ICMP].id, seq=0) / Raw(data[:12])),
    ]
    for destination, message in others:
        packet = IP(src="10.5.2.0", dst=destination, ttl=64) / message
        peer.sendto(bytes(packet), ("127.0.0.1", PORT))
        assert IP(host.read()).dst == destination
    assert host.engine.drain_events() == []


def test_probe_over_ipv6_is_one_of_icmpv6(path: tuple[Host, socket.socket, socket.socket]) -> None:
    host, _, peer_v6 = path
    host.engine.commit(network("kernel"))
    assert host.engine.probe("fd00:10:5:2::", 1300, TOKEN) == 1
    packet = IPv6(peer_v6.recv(70_000))
    assert (packet.src, packet.dst, len(packet)) == ("fd00:10:5:1::", "fd00:10:5:2::", 1300)
    request = packet[ICMPv6EchoRequest]
    rebuilt = IPv6(bytes(packet))
    del rebuilt[ICMPv6EchoRequest].cksum
    assert bytes(rebuilt) == bytes(packet)
    host.engine.commit({"put_entries": [{"prefix": "fd00:10:5:1::/64", "target": "local"}]})
    answer = ICMPv6EchoReply(id=request.id, seq=request.seq, data=request.data)
    sent = IPv6(src=packet.dst, dst=packet.src, hlim=64) / answer
    peer_v6.sendto(bytes(sent), (str(NEAR_V6), PORT))
    assert event_of(host)["token"] == TOKEN


def test_probe_goes_as_vxlan_where_that_is_spoken(rig: Rig) -> None:
    space = rig.namespace("own")
    with inside(space):
        peer = udp_socket(B)
    with peer, Host(space, vxlan_network()) as host:
        peer.settimeout(TIMEOUT_S)
        assert host.engine.probe("10.5.2.0", 1450, TOKEN) == 1
        packet = IP(peer.recv(70_000)[22:])
        answer = IP(src=packet.dst, dst=packet.src) / ICMP(
            type=0, id=packet[ICMP].id, seq=packet[ICMP].seq
        )
        datagram = framed(bytes(answer / Raw(bytes(packet[ICMP].payload))))
        peer.sendto(datagram, HERE)
        assert event_of(host)["token"] == TOKEN
