"""Two hosts with real TUN devices and a container behind each, joined by a veth pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from testbed.netns import Namespace, Rig, inside
from tests.native.hosts import PORT, adjacency, open_tun, over_ipv4, raw_icmp_socket, udp_socket
from tunneld import _native
from tunneld.host.steering import steer_by_lane

WORKERS = 2
ESP_PORT = 8286


@dataclass
class Node:
    """A host: number n has underlay 192.0.2.n and subnet 10.5.n.0/24."""

    number: int
    space: Namespace
    container: Namespace
    engine: _native.Engine

    def drops(self) -> dict[str, int]:
        return {name: count for name, count in self.engine.counters()["drops"].items() if count}


def make_node(rig: Rig, number: int, mtu_bytes: int = 1500) -> tuple[Namespace, Namespace]:
    """Makes a host and its container; the link between them stands for a bridge."""
    space, container = rig.namespace(f"h{number}"), rig.namespace(f"c{number}")
    rig.link(
        *(space, "cni0", container, "eth0"),
        first_address=f"10.5.{number}.1/24",
        second_address=f"10.5.{number}.2/24",
        mtu_bytes=mtu_bytes,
    )
    container.run("ip", "route", "add", "default", "via", f"10.5.{number}.1")
    space.sysctl("net/ipv4/ip_forward", 1)
    return space, container


def make_engine(
    space: Namespace, number: int, identities: Mapping[int, _native.Identity] | None = None
) -> _native.Engine:
    """`identities`: of both hosts; with them they speak ESP, and nothing else."""
    address = f"192.0.2.{number}"
    with ExitStack() as opened:

        def bound(port: int) -> socket.socket:
            return opened.enter_context(udp_socket(address, port, is_shared=True))

        def udp(port: int) -> int:
            return bound(port).fileno()

        with inside(space):
            tuns = [open_tun("flannel0") for _ in range(WORKERS)]
            if identities is None:
                underlay = [over_ipv4(udp(PORT)) for _ in range(WORKERS)]
            else:
                receivers = [bound(ESP_PORT) for _ in range(WORKERS)]
                steer_by_lane(receivers)
                senders = [[], *([udp(0)] for _ in range(1, WORKERS))]
                lanes = [[one.fileno(), *own] for one, own in zip(receivers, senders, strict=True)]
                underlay = [{"ipv4": [], "ipv6": [], "esp_ipv4": lane} for lane in lanes]
            icmp = opened.enter_context(raw_icmp_socket())
        engine = _native.Engine(
            tun_fds=tuns,
            underlay=underlay,
            icmp_fd=icmp.fileno(),
            icmp6_fd=None,
            split=False,
            encryption=None if identities is None else _encryption(number, identities[number]),
        )
    for tun in tuns:
        os.close(tun)
    space.run("ip", "address", "add", f"10.5.{number}.0/32", "dev", "flannel0")
    # Else the kernel sends router solicitations, which are rightly counted as drops.
    space.sysctl("net/ipv6/conf/flannel0/disable_ipv6", 1)
    space.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
    space.run("ip", "link", "set", "flannel0", "txqueuelen", "1000")
    space.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0")
    peer = 3 - number
    engine.commit(
        {
            "settings": {
                "source_check": "strict",
                "device_mtu_bytes": 1472,
                "icmp_source": f"10.5.{number}.0",
                "icmp_source_v6": None,
                "vtep": None,
            },
            "put_adjacencies": [
                adjacency("peer", f"192.0.2.{peer}")
                if identities is None
                else {
                    "name": "peer",
                    "encapsulation": "esp",
                    "endpoint": f"192.0.2.{peer}",
                    "port": ESP_PORT,
                    "mtu_bytes": 1438,
                    "of_peer": {
                        "key": identities[peer].public_key,
                        "subnet": f"10.5.{peer}.0/24",
                    },
                }
            ],
            "put_identities": [] if identities is None else [trusted(peer, identities[peer])],
            "put_entries": [
                {"prefix": f"10.5.{number}.0/24", "target": "local"},
                {"prefix": f"10.5.{peer}.0/24", "target": "peer"},
            ],
        }
    )
    engine.start()
    return engine


def trusted(peer: int, identity: _native.Identity) -> _native.TrustedIdentity:
    return {
        "key": identity.public_key,
        "endpoint": f"192.0.2.{peer}",
        "port": ESP_PORT,
        "instance": None,
    }


def _encryption(number: int, identity: _native.Identity) -> _native.Encryption:
    return {
        "identity": identity,
        "psks": None,
        "network": "/coreos.com/network",
        "cipher": "auto",
        "provider": "auto",
        "instance": os.urandom(8),
        "claim": [f"10.5.{number}.0/24"],
        "keepalive_s": None,
    }


@contextmanager
def two_nodes(
    rig: Rig, identities: Mapping[int, _native.Identity] | None = None
) -> Iterator[tuple[Node, Node]]:
    """Builds the hosts with their engines running; with `identities` they speak ESP."""
    spaces = [make_node(rig, number) for number in (1, 2)]
    rig.link(
        *(spaces[0][0], "eth0", spaces[1][0], "eth0"),
        first_address="192.0.2.1/24",
        second_address="192.0.2.2/24",
    )
    made = [
        Node(number, space, container, make_engine(space, number, identities))
        for number, (space, container) in enumerate(spaces, 1)
    ]
    try:
        yield made[0], made[1]
    finally:
        for node in made:
            node.engine.stop()
