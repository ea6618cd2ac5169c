"""Two hosts with real TUN devices and a container behind each, joined by a veth pair."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.native.hosts import PORT, adjacency, inside, open_tun, raw_icmp_socket, udp_socket
from tests.support.capture import Capture
from tests.support.netns import Namespace, Rig
from tunneld import _native

WORKERS = 2


@dataclass
class Node:
    """A host: number n has underlay 192.0.2.n and subnet 10.5.n.0/24."""

    number: int
    space: Namespace
    container: Namespace
    engine: _native.Engine

    def drops(self) -> dict[str, int]:
        return {name: count for name, count in self.engine.counters()["drops"].items() if count}


def make_node(rig: Rig, number: int) -> tuple[Namespace, Namespace]:
    """Makes a host and its container; the link between them stands for a bridge."""
    space, container = rig.namespace(f"h{number}"), rig.namespace(f"c{number}")
    rig.link(
        *(space, "cni0", container, "eth0"),
        first_address=f"10.5.{number}.1/24",
        second_address=f"10.5.{number}.2/24",
    )
    container.run("ip", "route", "add", "default", "via", f"10.5.{number}.1")
    space.sysctl("net/ipv4/ip_forward", 1)
    return space, container


def make_engine(space: Namespace, number: int) -> _native.Engine:
    with inside(space):
        tuns = [open_tun("flannel0") for _ in range(WORKERS)]
        with udp_socket(f"192.0.2.{number}") as underlay, raw_icmp_socket() as icmp:
            sockets = [underlay.fileno()] * WORKERS
            engine = _native.Engine(tun_fds=tuns, underlay_fds=sockets, icmp_fd=icmp.fileno())
    for tun in tuns:
        os.close(tun)
    space.run("ip", "address", "add", f"10.5.{number}.0/32", "dev", "flannel0")
    # Else the kernel sends router solicitations, which are rightly counted as drops.
    space.sysctl("net/ipv6/conf/flannel0/disable_ipv6", 1)
    space.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
    space.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0")
    peer = 3 - number
    engine.commit(
        {
            "settings": {
                "source_check": "strict",
                "device_mtu_bytes": 1472,
                "icmp_source": f"10.5.{number}.0",
            },
            "put_adjacencies": [adjacency("peer", f"192.0.2.{peer}")],
            "put_entries": [
                {"prefix": f"10.5.{number}.0/24", "target": "local"},
                {"prefix": f"10.5.{peer}.0/24", "target": "peer"},
            ],
        }
    )
    engine.start()
    return engine


@pytest.fixture
def nodes(rig: Rig) -> Iterator[tuple[Node, Node]]:
    spaces = [make_node(rig, number) for number in (1, 2)]
    rig.link(
        *(spaces[0][0], "eth0", spaces[1][0], "eth0"),
        first_address="192.0.2.1/24",
        second_address="192.0.2.2/24",
    )
    made = [
        Node(number, space, container, make_engine(space, number))
        for number, (space, container) in enumerate(spaces, 1)
    ]
    yield made[0], made[1]
    for node in made:
        node.engine.stop()


def ping(space: Namespace, *argv: str) -> str:
    return space.run("ping", "-n", "-W", "3", *argv, check=False)


def test_containers_reach_each_other_and_lose_four_hops(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with Capture(here.space, "eth0") as capture:
        output = ping(here.container, "-c", "5", "-i", "0.05", "10.5.2.2")
    assert "5 received" in output
    # Two hosts forward and two tunnel ends take one hop each, as with flannel.
    assert re.findall(r"ttl=(\d+)", output) == ["60"] * 5
    assert here.drops() == there.drops() == {}
    datagrams = [packet for packet in capture.packets() if packet.haslayer("IP")]
    assert len(datagrams) == 10
    for packet in datagrams:
        outer = packet["IP"]
        assert (outer.proto, outer.sport, outer.dport) == (17, PORT, PORT)
        assert (outer.ttl, outer.tos, str(outer.flags)) == (64, 0, "DF")
        inner = bytes(outer.payload.payload)
        assert inner[0] == 0x45
        assert int.from_bytes(inner[2:4], "big") == len(inner) == 84


def test_the_host_itself_speaks_with_its_overlay_address(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    assert "2 received" in ping(here.space, "-c", "2", "-i", "0.05", "10.5.2.0")


def test_tcp_arrives_whole_with_checksums_left_to_the_device(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.container.start("iperf3", "-s", "-1", "--forceflush").wait_for_output("listening")
    done = here.container.try_run("iperf3", "-c", "10.5.2.2", "-n", "20M", "-f", "m")
    assert done.returncode == 0, done.stdout + done.stderr
    received = sum(
        counters["rx_bytes"] for counters in there.engine.counters()["adjacencies"].values()
    )
    assert received > 20 << 20
    assert here.drops() == there.drops() == {}


def test_a_container_is_told_what_became_of_its_packets(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    unleased = ping(here.container, "-c", "1", "10.5.250.7")
    assert "From 10.5.1.0 icmp_seq=1 Destination Net Unreachable" in unleased
    # One hop for the host's own forwarding, the second would be the tunnel's.
    first = ping(here.container, "-c", "1", "-t", "2", "10.5.2.2")
    assert "From 10.5.1.0 icmp_seq=1 Time to live exceeded" in first
    last = ping(here.container, "-c", "1", "-t", "3", "10.5.2.2")
    assert "From 10.5.2.0 icmp_seq=1 Time to live exceeded" in last
    here.engine.commit({"put_adjacencies": [adjacency("peer", "192.0.2.2", mtu_bytes=1400)]})
    large = ping(here.container, "-c", "1", "-M", "do", "-s", "1400", "10.5.2.2")
    assert "From 10.5.1.0 icmp_seq=1 Frag needed and DF set (mtu = 1400)" in large
    assert here.drops() == {"no_route": 1, "hop_limit_exceeded": 1, "too_big": 1}
    assert there.drops() == {"hop_limit_exceeded": 1}
    assert here.engine.counters()["icmp_sent"] == 3
    assert there.engine.counters()["icmp_sent"] == 1
