"""A host with an engine beside one with a bare kernel vxlan device, a container behind each.

Host n has underlay addresses 192.0.2.n and 2001:db8::n and subnets 10.5.n.0/24 and fd00:5:n::/64;
1 is the engine's.
The kernel's device is set up by hand, as flannel would.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from testbed.netns import Namespace, Rig, inside
from tests.native.hosts import adjacency, open_tun, raw_icmp_socket, udp_socket
from tests.native.nodes import Node, make_node
from tunneld import _native

VNI, PORT = 7, 8472
MACS = {1: "0e:2a:00:00:00:01", 2: "0e:2a:00:00:00:02"}
MAC_V6 = "0e:2a:00:00:06:01"
"""Host 1 has another inner address for IPv6, as hosts of flannel have."""
DEVICE = "flannel.7"
SOURCE_PORTS = 4

Flavour = Literal["wire", "gso"]
"""`wire`: every datagram crosses the underlay by itself, as on a cable. `gso`: trains and
super-packets cross it in one piece, as veth does by default."""
Family = Literal[4, 6]

OVERHEAD_BYTES: dict[Family, int] = {4: 50, 6: 70}


@dataclass
class Tunnel:
    """Both ends."""

    user: Node
    kernel: Namespace
    container: Namespace
    """Behind the kernel's device."""
    mtu_bytes: int
    flavour: Flavour


def underlay(family: Family, number: int) -> str:
    return f"192.0.2.{number}" if family == 4 else f"2001:db8::{number}"


def make_underlay(rig: Rig, ends: list[Namespace], flavour: Flavour) -> None:
    rig.link(
        *(ends[0], "eth0", ends[1], "eth0"),
        first_address="192.0.2.1/24",
        second_address="192.0.2.2/24",
    )
    for number, space in enumerate(ends, 1):
        space.add_ipv6(f"2001:db8::{number}/64", "eth0")
        if flavour == "wire":
            off = ("tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off")
            space.run("ethtool", "-K", "eth0", *off)


def make_engine(space: Namespace, family: Family, mtu_bytes: int) -> _native.Engine:
    """Host 1, with one worker."""
    local = underlay(family, 1)
    with ExitStack() as opened:
        with inside(space):
            tun = open_tun(DEVICE)
            sockets = [
                opened.enter_context(udp_socket(local, PORT if number == 0 else 0))
                for number in range(1 + SOURCE_PORTS)
            ]
            icmp = opened.enter_context(raw_icmp_socket())
        fds = [sock.fileno() for sock in sockets]
        engine = _native.Engine(
            tun_fds=[tun],
            underlay=[{"ipv4": fds if family == 4 else [], "ipv6": fds if family == 6 else []}],
            icmp_fd=icmp.fileno(),
            icmp6_fd=None,
            split=False,
        )
    os.close(tun)
    # Else the kernel sends what is rightly counted as drops: router solicitations, MLD reports.
    space.sysctl(f"net/ipv6/conf/{DEVICE}/force_mld_version", 1)
    space.sysctl(f"net/ipv6/conf/{DEVICE}/forwarding", 0)
    space.run("ip", "link", "set", DEVICE, "addrgenmode", "none", "multicast", "off")
    space.run("ip", "link", "set", DEVICE, "mtu", str(mtu_bytes), "up")
    space.run("ip", "link", "set", DEVICE, "txqueuelen", "1000")
    for base, block in (("10.5.1.0/32", "10.5.0.0/16"), ("fd00:5:1::/128", "fd00:5::/32")):
        space.run("ip", "address", "add", base, "dev", DEVICE)
        space.run("ip", "route", "add", block, "dev", DEVICE)
    engine.commit(
        {
            "settings": {
                "source_check": "strict",
                "device_mtu_bytes": mtu_bytes,
                "icmp_source": "10.5.1.0",
                "icmp_source_v6": "fd00:5:1::",
                "vtep": {"vni": VNI, "gbp": False, "mac": MACS[1], "mac_v6": MAC_V6},
            },
            "put_adjacencies": [
                adjacency("peer", underlay(family, 2), mtu_bytes, PORT, vtep_mac=MACS[2])
            ],
            "put_entries": [
                {"prefix": "10.5.1.0/24", "target": "local"},
                {"prefix": "10.5.2.0/24", "target": "peer"},
                {"prefix": "fd00:5:1::/64", "target": "local"},
                {"prefix": "fd00:5:2::/64", "target": "peer"},
            ],
        }
    )
    engine.start()
    return engine


def make_kernel_device(space: Namespace, family: Family, mtu_bytes: int) -> None:
    """Host 2. Source: flannel `pkg/backend/vxlan/device.go`, `vxlan_network.go`."""
    space.run(
        *("ip", "link", "add", DEVICE, "type", "vxlan", "id", str(VNI), "dev", "eth0"),
        *("local", underlay(family, 2), "dstport", str(PORT), "nolearning", "udpcsum"),
    )
    space.run("ip", "link", "set", DEVICE, "addrgenmode", "none", "multicast", "off")
    space.run("ip", "link", "set", DEVICE, "address", MACS[2], "mtu", str(mtu_bytes), "up")
    for own, base, block, mac in (
        ("10.5.2.0/32", "10.5.1.0", "10.5.1.0/24", MACS[1]),
        ("fd00:5:2::/128", "fd00:5:1::", "fd00:5:1::/64", MAC_V6),
    ):
        space.run("ip", "address", "add", own, "dev", DEVICE)
        entry = ("lladdr", mac, "dev", DEVICE, "nud", "permanent")
        space.run("ip", "neighbour", "add", base, *entry)
        space.run("bridge", "fdb", "append", mac, "dev", DEVICE, "dst", underlay(family, 1))
        space.run("ip", "route", "add", block, "via", base, "dev", DEVICE, "onlink")


@contextmanager
def tunnel(rig: Rig, flavour: Flavour, family: Family) -> Iterator[Tunnel]:
    """Builds both, ready for traffic."""
    mtu_bytes = 1500 - OVERHEAD_BYTES[family]
    ends = [make_node(rig, number, mtu_bytes) for number in (1, 2)]
    (here, container), (there, far_container) = ends
    for number, (space, inside_it) in enumerate(ends, 1):
        space.sysctl("net/ipv6/conf/all/forwarding", 1)
        for place, device, last in ((space, "cni0", 1), (inside_it, "eth0", 2)):
            address = f"fd00:5:{number}::{last}/64"
            place.add_ipv6(address, device)
        inside_it.run("ip", "route", "add", "default", "via", f"fd00:5:{number}::1")
    make_underlay(rig, [here, there], flavour)
    engine = make_engine(here, family, mtu_bytes)
    make_kernel_device(there, family, mtu_bytes)
    try:
        yield Tunnel(Node(1, here, container, engine), there, far_container, mtu_bytes, flavour)
    finally:
        engine.stop()
