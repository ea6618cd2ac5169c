"""From the device to the underlay, with scapy as the second opinion."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP

from testbed.netns import Namespace, Rig, inside
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import (
    TIMEOUT_S,
    Host,
    adjacency,
    in_order,
    network,
    pause,
    settings,
    udp_socket,
)
from tests.native.packets import icmp_error, inner, sized


def test_the_datagram_is_the_inner_packet_one_hop_older(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    for size in (28, 100, 1472):
        host.write(sized("10.5.1.2", "10.5.2.2", size))
        datagram, source = peer.recvfrom(70_000)
        assert datagram == sized("10.5.1.2", "10.5.2.2", size, ttl=63)
        assert source == ("127.0.0.1", 8285)
    host.wait_for_traffic("b", "tx_bytes", 28 + 100 + 1472)
    reading = host.traffic("b")
    assert (reading["tx_packets"], reading["tx_bytes"]) == (3, 28 + 100 + 1472)
    assert host.drops() == {}


def test_order_is_kept_across_batches(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    with in_order(host.engine):
        for number in range(1000):
            host.write(inner("10.5.1.2", "10.5.2.2", payload=number.to_bytes(4, "big")))
        got = [int.from_bytes(peer.recv(2000)[28:], "big") for _ in range(1000)]
    assert got == list(range(1000))


def test_a_committed_change_holds_for_the_next_packet(host: Host, peer_socket: PeerSocket) -> None:
    peer_b, peer_c = peer_socket("127.0.0.2"), peer_socket("127.0.0.3")
    for _ in range(50):
        host.engine.commit({"put_entries": [{"prefix": "10.5.2.0/24", "target": "c"}]})
        host.write(inner("10.5.1.2", "10.5.2.2"))
        assert peer_c.recv(2000)
        host.engine.commit({"put_entries": [{"prefix": "10.5.2.0/24", "target": "b"}]})
        host.write(inner("10.5.1.2", "10.5.2.2"))
        assert peer_b.recv(2000)


def test_counters_stay_with_an_adjacency_that_is_put_again(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer_socket("127.0.0.2")
    host.write(inner("10.5.1.2", "10.5.2.2"))
    host.wait_for_traffic("b", "tx_packets", 1)
    host.engine.commit({"put_adjacencies": [adjacency("b", "127.0.0.2", mtu_bytes=1300)]})
    assert host.traffic("b")["tx_packets"] == 1


def test_an_unfinished_checksum_is_finished(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    expected = inner("10.5.1.2", "10.5.2.2", ttl=63)
    # The kernel leaves the sum over the pseudo-header in the field.
    words = memoryview(expected[12:20] + bytes([0, 17]) + expected[24:26]).cast("H")
    total = sum(int.from_bytes(word.to_bytes(2, "little"), "big") for word in words)
    total = (total & 0xFFFF) + (total >> 16)
    seed = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    packet = bytearray(inner("10.5.1.2", "10.5.2.2"))
    packet[26:28] = seed
    start, offset = (20).to_bytes(2, "little"), (6).to_bytes(2, "little")
    host.write(bytes(packet), bytes([1, 0, 0, 0, 0, 0]) + start + offset)
    assert peer.recv(2000) == expected


DROPPED = [
    (b"\x60" + bytes(39), "ipv6_disabled"),
    (b"", "malformed"),
    (b"\x50" + bytes(39), "malformed"),
    (inner("10.5.1.2", "10.5.2.2")[:-1], "malformed"),
    (inner("10.5.1.2", "10.5.1.7"), "own_subnet"),
    (inner("10.5.1.2", "224.0.0.251"), "no_route"),
    (inner("10.5.1.2", "255.255.255.255"), "no_route"),
]


@pytest.mark.parametrize(("packet", "reason"), DROPPED)
def test_what_cannot_go_on_is_counted_once_and_not_answered(
    host: Host, packet: bytes, reason: str
) -> None:
    host.write(packet)
    host.wait_for_drop(reason)
    assert host.drops() == {reason: 1}
    assert host.engine.counters()["icmp_sent"] == 0


def test_a_super_packet_of_a_kind_nobody_asked_for_is_dropped(host: Host) -> None:
    # VIRTIO_NET_HDR_GSO_UDP, 3: UDP fragmentation offload.
    host.write(sized("10.5.1.2", "10.5.2.2", 20_000), bytes([1, 3]) + bytes(8))
    host.wait_for_drop("unexpected_gso")


def test_before_the_first_settings_packets_are_dropped(space: Namespace) -> None:
    with Host(space) as bare:
        bare.write(inner("10.5.1.2", "10.5.2.2"))
        bare.wait_for_drop("not_configured")


@pytest.fixture
def container(space: Namespace) -> Iterator[socket.socket]:
    """A socket that sees all ICMP for 10.5.1.2, which the namespace has as its own."""
    space.run("ip", "address", "replace", "10.5.1.2/32", "dev", "lo")
    space.run("ip", "address", "replace", "10.5.1.0/32", "dev", "lo")
    with inside(space):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.bind(("10.5.1.2", 0))
        sock.settimeout(TIMEOUT_S)
        yield sock


ANSWERED = [
    (inner("10.5.1.2", "10.5.250.7"), "no_route", (3, 0, 0)),
    (inner("10.5.1.2", "10.5.2.2", ttl=1), "hop_limit_exceeded", (11, 0, 0)),
    (sized("10.5.1.2", "10.5.3.2", 1401), "too_big", (3, 4, 1400)),
]


@pytest.mark.parametrize(("offender", "reason", "answer"), ANSWERED)
def test_the_sender_is_told_in_words_that_scapy_agrees_with(
    host: Host,
    container: socket.socket,
    offender: bytes,
    reason: str,
    answer: tuple[int, int, int],
) -> None:
    host.write(offender)
    packet = IP(container.recv(2000))
    kind, code, mtu = answer
    assert bytes(packet.payload) == icmp_error(kind, code, offender, mtu_bytes=mtu)
    # The kernel has put in the source that its route to the sender has.
    assert (packet.src, packet.dst, packet.ttl) == ("10.5.1.2", "10.5.1.2", 64)
    assert host.drops() == {reason: 1}
    wait_until(lambda: host.engine.counters()["icmp_sent"] == 1)


def answers(host: Host) -> tuple[int, int]:
    """Returns how many ICMP errors were sent, and how many were held back."""
    counters = host.engine.counters()
    return counters["icmp_sent"], counters["icmp_suppressed"]


def test_a_flood_of_errors_is_answered_at_a_limited_rate(
    host: Host, container: socket.socket
) -> None:
    packet, written, begun_s = inner("10.5.1.2", "10.5.250.7"), 0, time.monotonic()

    def one_was_held_back() -> bool:
        nonlocal written
        for _ in range(5000):
            host.write(packet)
        written += 5000
        host.wait_for_drop("no_route", written)
        return host.engine.counters()["icmp_suppressed"] > 0

    # A machine with other work may be so slow that each packet has its answer.
    wait_until(one_was_held_back)
    wait_until(lambda: sum(answers(host)) == written, what="the last answer being counted")
    sent, _ = answers(host)
    # As many at once, and so many a second (`core::icmp_limit`).
    assert 50 <= sent <= 50 + 1_000 * (time.monotonic() - begun_s)


def test_packet_too_large_for_the_underlay_is_answered_at_once_or_fragmented(
    rig_space: Namespace,
) -> None:
    rig_space.run("ip", "link", "set", "lo", "mtu", "1300")
    rig_space.run("ip", "address", "add", "10.5.1.2/32", "dev", "lo")
    with inside(rig_space):
        container = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        peer = udp_socket("127.0.0.2")
    with container, peer, Host(rig_space) as host:
        container.settimeout(TIMEOUT_S)
        peer.settimeout(TIMEOUT_S)
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", "127.0.0.2")],
                "put_entries": [{"prefix": "10.5.2.0/24", "target": "b"}],
            }
        )
        host.write(sized("10.5.1.2", "10.5.2.2", 1273))
        assert select.select([host.engine.event_fd], [], [], TIMEOUT_S)[0]
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"]) == ("path_mtu", "b")
        assert (event["size_bytes"], event["path_mtu_bytes"]) == (1273, 1300)
        answer = IP(container.recv(2000))
        offender = sized("10.5.1.2", "10.5.2.2", 1273, ttl=63)
        assert bytes(answer.payload) == icmp_error(3, 4, offender, mtu_bytes=1272)
        assert host.drops() == {"too_big_for_underlay": 1}
        # What may be fragmented arrives, and what fits goes on as before.
        host.write(inner("10.5.1.2", "10.5.2.2", payload=bytes(1400), flags=""))
        assert peer.recv(70_000)[28:] == bytes(1400)
        host.write(sized("10.5.1.2", "10.5.2.2", 1272))
        assert len(peer.recv(70_000)) == 1272
        host.wait_for_traffic("b", "tx_packets", 2)
        assert host.drops() == {"too_big_for_underlay": 1}


def test_doubtful_word_of_the_kernel_is_told_to_nobody(rig_space: Namespace) -> None:
    """A forged ICMP error puts it to 552; senders would keep to that for ten minutes."""
    with inside(rig_space):
        peer = udp_socket("127.0.0.2")
    rig_space.run("ip", "link", "set", "lo", "mtu", "1500")
    route = ("ip", "route", "replace", "local", "127.0.0.2", "dev", "lo", "table", "local")
    rig_space.run(*route, "mtu", "552")
    with peer, Host(rig_space, network()) as host:
        peer.settimeout(TIMEOUT_S)
        host.write(sized("10.5.1.2", "10.5.2.2", 1472))
        assert len(peer.recv(70_000)) == 1472
        assert select.select([host.engine.event_fd], [], [], TIMEOUT_S)[0]
        [event] = host.engine.drain_events()
        assert (event["kind"], event["path_mtu_bytes"]) == ("path_mtu", 552)
        host.wait_for_traffic("b", "tx_packets", 1)
        assert (host.drops(), answers(host)) == ({}, (0, 0))


def test_flood_that_the_underlay_refuses_is_an_event_a_second(rig_space: Namespace) -> None:
    rig_space.run("ip", "link", "set", "lo", "mtu", "1300")
    with Host(rig_space) as host:
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", "127.0.0.2")],
                "put_entries": [{"prefix": "10.5.2.0/24", "target": "b"}],
            }
        )
        packet, events, begun_s = sized("10.5.1.2", "10.5.2.2", 1400), 0, time.monotonic()
        for number in range(1, 31):
            for _ in range(500):
                host.write(packet)
            host.wait_for_drop("too_big_for_underlay", 500 * number)
            events += len(host.engine.drain_events())
        assert 1 <= events <= 1 + (time.monotonic() - begun_s)


def test_a_peer_out_of_reach_costs_only_its_own_packets(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    host.engine.commit({"put_adjacencies": [adjacency("c", "192.0.2.9")]})
    lost, kept = inner("10.5.1.2", "10.5.3.2"), inner("10.5.1.2", "10.5.2.2")
    for _ in range(20):
        # Held back, so that they come in one batch: a few, as a socket pair queues no more.
        pause(host.engine)
        for packet in (lost, kept, lost, lost, kept):
            host.write(packet)
        host.engine.resume()
        assert peer.recv(2000)
        assert peer.recv(2000)
    host.wait_for_drop("underlay_unreachable", 60)
    # A packet may be there before the thread that sent it has counted it.
    host.wait_for_traffic("b", "tx_packets", 40)
    assert host.drops() == {"underlay_unreachable": 60}
    assert host.traffic("b")["tx_packets"] == 40
    assert host.traffic("c")["tx_packets"] == 0


def test_what_arrives_is_served_while_the_underlay_is_full(rig: Rig, split: bool) -> None:
    space, there = rig.namespace("own"), rig.namespace("there")
    rig.link(
        *(space, "eth0", there, "eth0"),
        first_address="192.0.2.1/24",
        second_address="192.0.2.2/24",
    )
    with inside(there):
        peer = udp_socket("192.0.2.2")
    with inside(space):
        near = udp_socket("192.0.2.1")
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with peer, Host(space, underlay=[near], split=split) as host:
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", "192.0.2.2")],
                "put_entries": [
                    {"prefix": "10.5.1.0/24", "target": "local"},
                    {"prefix": "10.5.2.0/24", "target": "b"},
                ],
            }
        )
        arriving = inner("10.5.2.2", "10.5.1.2")
        peer.sendto(arriving, ("192.0.2.1", 8285))
        assert host.read()
        # Both know each other for good: no question has to pass the queue.
        for place, other in ((space, "192.0.2.2"), (there, "192.0.2.1")):
            place.run("ip", "neighbour", "change", other, "dev", "eth0", "nud", "permanent")
        # A packet in minutes: what is queued here stays there for the rest of the test.
        slow = ("rate", "80bit", "burst", "2k", "limit", "1mb")
        space.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *slow)
        for _ in range(16):
            host.write(inner("10.5.1.2", "10.5.2.2", payload=bytes(1000)))
        host.wait_for_traffic("b", "tx_packets", 2)
        for _ in range(20):
            peer.sendto(arriving, ("192.0.2.1", 8285))
            assert host.read()
        assert host.traffic("b")["tx_packets"] < 16
        assert set(host.drops()) <= {"way_full"}
