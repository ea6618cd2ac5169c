"""From the underlay to the device: honest packets arrive, each other kind has its own reason."""

from __future__ import annotations

import random
import select
import socket
import time

import pytest
from scapy.layers.inet import ICMP, IP, UDP

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import TIMEOUT_S, Host, in_order, network, pause, udp_socket
from tests.native.packets import inner, sized

HERE = ("127.0.0.1", 8285)
HONEST = inner("10.5.2.2", "10.5.1.2")


def test_an_honest_packet_arrives_one_hop_older(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    begun_s = time.monotonic()
    for size in (28, 100, 1472):
        peer.sendto(sized("10.5.2.2", "10.5.1.2", size), HERE)
        assert host.read() == sized("10.5.2.2", "10.5.1.2", size, ttl=63)
    host.wait_for_traffic("b", "rx_bytes", 28 + 100 + 1472)
    reading = host.traffic("b")
    assert (reading["rx_packets"], reading["rx_bytes"]) == (3, 28 + 100 + 1472)
    assert reading["last_rx"] is not None
    assert begun_s <= reading["last_rx"] <= time.monotonic()
    assert host.traffic("c")["last_rx"] is None


def test_order_is_kept_across_batches(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    pause(host.engine)
    with in_order(host.engine):
        for number in range(500):
            peer.sendto(inner("10.5.2.2", "10.5.1.2", payload=number.to_bytes(4, "big")), HERE)
    host.engine.resume()
    got = [int.from_bytes(host.read()[28:], "big") for _ in range(500)]
    assert got == list(range(500))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_a_full_socket_loses_is_counted_of_the_engines_own_descriptor(
    space: Namespace, address: str
) -> None:
    with inside(space):
        underlay, stranger = udp_socket(address), udp_socket(address, 0)
    underlay.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host = Host(space, network(), [underlay])
    assert underlay.fileno() == -1  # whoever opened it has closed it
    with stranger:
        for _ in range(100):
            stranger.sendto(bytes(1000), (address, 8285))
    # Over the loopback device a datagram is there, or lost, when the call returns.
    lost = host.engine.counters()["receive_drops"]
    assert 0 < lost < 100
    with host:
        wait_until(lambda: sum(host.drops().values()) == 100 - lost)
        assert host.engine.counters()["receive_drops"] == lost
    assert host.engine.counters()["receive_drops"] == 0


def fixed(packet: bytes, **fields: int) -> bytes:
    """Returns `packet` with fields set; scapy makes the checksum fit."""
    changed = IP(packet)
    for field, value in fields.items():
        setattr(changed, field, value)
    del changed.chksum
    return bytes(changed)


@pytest.mark.parametrize("size_bytes", [1473, 9000, 65_507])
def test_packet_beyond_the_devices_mtu_is_left_to_the_kernel(
    host: Host, peer_socket: PeerSocket, size_bytes: int
) -> None:
    """It fragments what may be, and answers the sender of the rest (RFC 1812 5.2.6)."""
    peer_socket("127.0.0.2").sendto(sized("10.5.2.2", "10.5.1.2", size_bytes), HERE)
    assert host.read() == sized("10.5.2.2", "10.5.1.2", size_bytes, ttl=63)
    assert host.drops() == {}


B, C, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.9"

DROPPED = {
    "empty": (B, b""),
    "ipv6_disabled": (B, b"\x60" + bytes(60)),
    "bad_version": (B, b"\x00" + HONEST[1:]),
    "truncated": (B, HONEST[:19]),
    "bad_header_length": (B, b"\x44" + HONEST[1:]),
    "inner_length_too_long": (B, HONEST[:-1]),
    "inner_length_too_short": (B, HONEST + b"\x00"),
    "bad_header_checksum": (B, HONEST[:8] + b"\x63" + HONEST[9:]),
    "unknown_peer": (STRANGER, HONEST),
    "source_not_leased": (B, inner("192.0.2.1", "10.5.1.2")),
    "source_is_local": (B, inner("10.5.1.3", "10.5.1.2")),
    "source_of_other_peer": (C, HONEST),
    "wrong_destination": (B, inner("10.5.2.2", "10.5.3.2")),
    "hop_limit_exceeded": (B, fixed(HONEST, ttl=1)),
}


@pytest.mark.parametrize("reason", DROPPED)
def test_each_dishonest_datagram_has_its_own_reason_and_disturbs_nobody(
    host: Host, peer_socket: PeerSocket, reason: str
) -> None:
    source, datagram = DROPPED[reason]
    sockets = {address: peer_socket(address) for address in (B, C, STRANGER)}
    sockets[source].sendto(datagram, HERE)
    sockets[B].sendto(HONEST, HERE)
    assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63)
    host.wait_for_drop(reason)
    assert host.drops() == {reason: 1}
    assert host.reads_nothing()


@pytest.mark.parametrize(
    ("check", "source", "datagram", "reason"),
    [
        ("loose", STRANGER, HONEST, "unknown_peer"),
        ("loose", B, inner("10.5.1.3", "10.5.1.2"), "source_is_local"),
        ("loose", B, inner("192.0.2.1", "10.5.1.2"), None),
        ("loose", C, HONEST, None),
        ("off", STRANGER, HONEST, None),
        ("off", STRANGER, inner("10.5.1.3", "10.5.1.2"), None),
        ("off", STRANGER, inner("10.5.2.2", "10.5.3.2"), "wrong_destination"),
    ],
)
def test_looser_source_checks_let_more_through(
    space: Namespace,
    peer_socket: PeerSocket,
    check: str,
    source: str,
    datagram: bytes,
    reason: str | None,
) -> None:
    with Host(space, network(check)) as host:
        peer_socket(source).sendto(datagram, HERE)
        if reason is None:
            assert host.read() == fixed(datagram, ttl=63)
        else:
            host.wait_for_drop(reason)
            assert host.reads_nothing()


def test_the_source_port_of_a_peer_does_not_matter(host: Host, space: Namespace) -> None:
    with inside(space), udp_socket(B, 0) as anywhere:
        anywhere.sendto(HONEST, HERE)
        assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63)


def test_no_icmp_error_about_a_datagram_ends_what_receives(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    """The socket takes such errors for a moment, when the kernel is asked for a path's MTU.

    One that comes in that moment, from whomever, is what the next call on the socket returns.
    """
    with inside(space):
        underlay = udp_socket("127.0.0.1")
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    peer = peer_socket(B)
    with raw, underlay.dup() as same, Host(space, network(), underlay=[underlay]) as host:
        # Of destination unreachable all codes, and the others that UDP is told of (RFC 792).
        for kind, code in [*((3, code) for code in range(16)), (12, 0), (11, 0)]:
            pause(host.engine)
            same.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
            about = IP(src="127.0.0.1", dst=B) / UDP(sport=8285, dport=8285)
            error = IP(src=B, dst="127.0.0.1") / ICMP(type=kind, code=code) / about
            raw.sendto(bytes(error), ("127.0.0.1", 0))
            poll = select.poll()
            poll.register(same, 0)
            assert poll.poll(TIMEOUT_S * 1000), (kind, code)
            same.setsockopt(socket.IPPROTO_IP, 11, 0)
            host.engine.resume()
            peer.sendto(HONEST, HERE)
            assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63), (kind, code)
        assert host.engine.drain_events() == []


def test_garbage_by_the_thousand_is_dropped_and_the_engine_lives(
    host: Host, peer_socket: PeerSocket
) -> None:
    chosen = random.Random(3)
    peer = peer_socket(B)
    for number in range(20_000):
        garbage = chosen.randbytes(chosen.randrange(120))
        if number % 2 and garbage:
            garbage = HONEST[: chosen.randrange(1, 20)] + garbage
        peer.sendto(garbage, HERE)
        if number % 500 == 0:
            # Keeps the socket's buffer from running over.
            peer.sendto(HONEST, HERE)
            assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63)
    assert all(beat["alive"] for beat in host.engine.heartbeat())
    assert host.engine.drain_events() == []
    peer.sendto(HONEST, HERE)
    assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63)
    # The last packet was counted before it was read: so were those in front of it.
    workers = {item["direction"]: item for item in host.engine.counters()["workers"]}
    assert workers["inbound"]["packets"] == 20_000 + 41
    assert sum(host.drops().values()) == 20_000
