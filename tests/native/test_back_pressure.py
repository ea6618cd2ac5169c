"""What a peer's slow or dead way does to the others: nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import cast

import pytest

from testbed.netns import Namespace, Rig, inside
from tests.native.hosts import PORT, TIMEOUT_S, Host, adjacency, settings, udp_socket
from tests.native.keyed import PORT as ESP_PORT
from tests.native.keyed import KeyedHost, numbered, passes
from tests.native.packets import inner
from tunneld import _native
from tunneld.host.sockets import open_encryption_sockets, open_underlay_sockets
from tunneld.lease.model import IPAddress

DEAD = range(100, 220)
"""Hosts on the same link that answer nobody."""
FAMILIES: dict[str, tuple[str, IPAddress]] = {
    "ipv4": ("192.0.2.{}", IPv4Address("192.0.2.1")),
    "ipv6": ("2001:db8::{}", IPv6Address("2001:db8::1")),
}


@contextmanager
def three_hosts(
    rig: Rig, family: str = "ipv4", ports: int = 0
) -> Iterator[tuple[Host, Namespace, socket.socket, socket.socket]]:
    """A host with the daemon's own sockets, and two peers: `b`, and `c`, whose way may be slow."""
    pattern, own = FAMILIES[family]
    space, there = rig.namespace("own"), rig.namespace("there")
    rig.link(space, "eth0", there, "eth0")
    addresses: list[IPAddress] = [own]
    for place, numbers in ((space, (1,)), (there, (2, 3))):
        for number in numbers:
            if family == "ipv6":
                place.add_ipv6(f"{pattern.format(number)}/64", "eth0")
            else:
                place.run("ip", "address", "add", f"{pattern.format(number)}/24", "dev", "eth0")
    with inside(there):
        b, c = (udp_socket(pattern.format(number)) for number in (2, 3))
    with inside(space):
        [worker] = open_underlay_sockets(addresses, PORT, 1, source_ports=ports)
    with b, c:
        for peer in (b, c):
            peer.settimeout(TIMEOUT_S)
        sockets = cast("_native.UnderlaySockets", worker.descriptors())
        host = Host(space, network(pattern), sockets=sockets)
        worker.close()
        with host:
            yield host, space, b, c


def network(pattern: str) -> _native.Change:
    peers = {"b": 2, "c": 3} | {f"dead {number}": number for number in DEAD}
    entries: list[_native.Entry] = [
        {"prefix": f"10.5.{number}.0/24", "target": name} for name, number in peers.items()
    ]
    return {
        "settings": settings(),
        "put_adjacencies": [
            adjacency(name, pattern.format(number)) for name, number in peers.items()
        ],
        "put_entries": [{"prefix": "10.5.1.0/24", "target": "local"}, *entries],
    }


def send(host: Host, subnet: int, number: int, size_bytes: int) -> None:
    packet = packet_to(subnet, size_bytes)
    host.write(packet[:28] + number.to_bytes(4, "big") + packet[32:])


@cache
def packet_to(subnet: int, size_bytes: int) -> bytes:
    return inner("10.5.1.2", f"10.5.{subnet}.2", payload=bytes(size_bytes))


def received(peer: socket.socket) -> int:
    return int.from_bytes(peer.recv(70_000)[28:32], "big")


def slow_way(space: Namespace, address: str, rate: str) -> None:
    """Shapes what goes to one address, by a queue as long as the device's."""
    kind = "ip6" if ":" in address else "ip"
    protocol = "ipv6" if ":" in address else "ip"
    tc = ("tc", "class", "add", "dev", "eth0", "parent", "1:", "classid")
    space.run("tc", "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "10")
    space.run(*tc, "1:10", "htb", "rate", "10gbit")
    space.run(*tc, "1:20", "htb", "rate", rate)
    space.run(
        *("tc", "filter", "add", "dev", "eth0", "parent", "1:", "protocol", protocol, "u32"),
        *("match", kind, "dst", f"{address}/{128 if ':' in address else 32}", "flowid", "1:20"),
    )


@pytest.mark.parametrize(
    ("family", "ports"), [("ipv4", 0), ("ipv6", 0), ("ipv4", 4)], ids=["udp", "ipv6", "4 ports"]
)
def test_a_slow_way_drops_what_it_does_not_take_and_holds_up_nobody(
    rig: Rig, family: str, ports: int
) -> None:
    with three_hosts(rig, family, ports) as (host, space, b, c):
        pattern, _ = FAMILIES[family]
        for subnet, peer in ((2, b), (3, c)):
            send(host, subnet, 0, 100)
            assert received(peer) == 0
        # A datagram in minutes: what is queued for it stays there.
        slow_way(space, pattern.format(3), "80bit")
        for number in range(1, 3_001):
            send(host, 3, number, 1_200)
            if number % 10 == 0:
                send(host, 2, number, 100)
                assert received(b) == number, "b's packets come, each before the next is sent"
        drops = host.drops()
        assert set(drops) == {"way_full"}
        sent = host.traffic("c")["tx_packets"]
        assert sent + drops["way_full"] == 3_001, "no loss without a counter"
        # The room of a common socket for each port and of a siding, and two trains.
        assert sent * 1_232 < ((ports or 1) << 20) + (512 << 10) + 2 * 65_536


def test_peers_that_answer_nobody_hold_up_nobody(rig: Rig) -> None:
    answer = inner("10.5.2.2", "10.5.1.2")
    with three_hosts(rig) as (host, _, b, c):
        for number in range(120):
            for dead in DEAD:
                send(host, dead, number, 700)
            # One that answers, and one that nothing comes from.
            for subnet, peer in ((2, b), (3, c)):
                send(host, subnet, number, 700)
                assert received(peer) == number
                if peer is b:
                    peer.sendto(answer, ("192.0.2.1", PORT))
                    assert host.read()
        assert set(host.drops()) == {"way_full"}
        for name in ("b", "c"):
            host.wait_for_traffic(name, "tx_packets", 120)


def test_a_way_that_is_full_for_a_moment_loses_nothing(rig: Rig) -> None:
    with three_hosts(rig) as (host, space, _, c):
        slow_way(space, "192.0.2.3", "40mbit")
        for burst in range(3):
            for number in range(300):
                send(host, 3, burst * 300 + number, 1_000)
            got = [received(c) for _ in range(300)]
            assert got == list(range(burst * 300, burst * 300 + 300)), "in the order of sending"
        assert host.drops() == {}


def test_nothing_that_arrives_goes_to_sockets_that_only_send(rig: Rig) -> None:
    with three_hosts(rig) as (host, space, b, c):
        slow_way(space, "192.0.2.3", "1mbit")
        arriving = [(b, inner("10.5.2.2", "10.5.1.2")), (c, inner("10.5.3.2", "10.5.1.2"))]
        for number in range(2_000):
            send(host, 3, number, 1_200)
            for peer, packet in arriving:
                peer.sendto(packet, ("192.0.2.1", PORT))
                assert host.read()
        sources = {c.recvfrom(70_000)[1] for _ in range(100)}
        assert sources == {("192.0.2.1", PORT)}, "whichever socket they left by"
        assert set(host.drops()) == {"way_full"}


def test_a_slow_way_by_esp_holds_up_nobody(rig: Rig, tmp_path: Path) -> None:
    """The port of encryption has sidings of its own."""
    pattern, own = FAMILIES["ipv4"]
    space, there = rig.namespace("own"), rig.namespace("there")
    rig.link(space, "eth0", there, "eth0")
    for place, number in ((space, 1), (there, 2), (there, 3)):
        place.run("ip", "address", "add", f"{pattern.format(number)}/24", "dev", "eth0")
    with inside(space):
        [worker] = open_encryption_sockets([own], ESP_PORT, 1)
    fds = worker.descriptors()
    sockets: _native.UnderlaySockets = {
        "ipv4": [],
        "ipv6": [],
        "esp_ipv4": fds["ipv4"],
        "esp_ipv4_sidings": fds["ipv4_sidings"],
    }
    keys = {number: _native.Identity.create(tmp_path / f"key{number}") for number in (1, 2, 3)}
    with (
        KeyedHost(space, 1, keys[1], pattern=pattern, sockets=sockets) as host,
        KeyedHost(there, 2, keys[2], pattern=pattern) as b,
        KeyedHost(there, 3, keys[3], pattern=pattern) as c,
    ):
        worker.close()
        for peer in (b, c):
            host.knows(peer.number, peer.key)
            peer.knows(1, host.key)
            passes(host, peer)
        slow_way(space, pattern.format(3), "80bit")
        for number in range(1, 3_001):
            host.write(packet_to(3, 1_200))
            if number % 10 == 0:
                host.write(numbered(host, b, number))
                assert b.read() == numbered(host, b, number)
        drops = host.drops()
        assert set(drops) == {"way_full"}
        traffic = host.engine.counters()["adjacencies"]["peer 10.5.3.0/24"]
        assert traffic["tx_packets"] + drops["way_full"] == 3_001
        # The room of a common socket and of a siding, and two trains.
        assert traffic["tx_packets"] * 1_268 < (1 << 20) + (512 << 10) + 2 * 65_536
