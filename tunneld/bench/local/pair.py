"""Two hosts joined by a veth pair, each with a bridge and a container: a network for one overlay.

        a: 192.0.2.1 on u0 ───────── u0 at 192.0.2.2 :b        underlay, MTU 1500
    container ─ eth0 ─ br0                  br0 ─ eth0 ─ container

All overlays stand beside each other in namespaces of their own and idle while one is measured, so
that a change from one to the next costs no time in which the machine could change its mind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Final, Literal, get_args

from tunneld.errors import LabError
from tunneld.lab import namespaces

PREFIX = "tnb-"
LAB = "bench"
"""The name under which one program at a time measures."""
UNDERLAY: Final = IPv4Network("192.0.2.0/24")
UNDERLAY_V6: Final = IPv6Network("2001:db8::/64")
UNDERLAY_MTU_BYTES: Final = 1500
ETHERNET_BYTES: Final = 14

Flavour = Literal["wire", "gso", "wiregro"]
"""How the underlay treats long packets:

- gso: as veth comes. A super-packet of 64 KiB crosses whole, which no wire can do.
- wire: every segmentation offload off. What crosses is one frame of at most the MTU.
- wiregro: as wire, and the receiver aggregates (GRO), as the drivers of network cards do.
"""
FLAVOURS: Final[tuple[Flavour, ...]] = get_args(Flavour)

_SEGMENTATION: Final = (
    *("tso", "gso", "gro", "tx-udp-segmentation", "tx-gso-list", "tx-gso-partial"),
    *("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-tcp-ecn-segmentation"),
    *("rx-gro-list", "rx-udp-gro-forwarding"),
)
"""Names that ethtool(8) takes; not every kernel knows all of them."""


_NAT_CHAIN: Final = """
table ip bench {
    chain postrouting { type nat hook postrouting priority srcnat; }
}
"""


def use_name(name: str) -> None:
    """Gives the hosts of this process names of their own, next to those of other benches."""
    global PREFIX, LAB
    PREFIX, LAB = f"tnb-{name}-", f"bench{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host of a pair."""

    label: Literal["a", "b"]
    namespace: str
    container: str
    """The namespace of its container."""
    address: IPv4Address
    """On the underlay."""
    directory: Path


class Pair:
    """The two hosts of one overlay."""

    def __init__(self, name: str, directory: Path, *, ipv6: bool = False) -> None:
        """With `ipv6` the underlay has it too, and traffic goes to the container's IPv6 address."""
        self.name = name
        self.directory = directory
        self.ipv6 = ipv6
        self.a, self.b = self._host("a", UNDERLAY[1]), self._host("b", UNDERLAY[2])
        self.hosts = (self.a, self.b)
        self.inner: dict[str, IPv4Address | IPv6Address] = {}
        """The address of the container of a host, by the host's label."""

    def _host(self, label: Literal["a", "b"], address: IPv4Address) -> Host:
        return Host(
            label=label,
            namespace=f"{PREFIX}{self.name}-{label}",
            container=f"{PREFIX}{self.name}-{label}-c",
            address=address,
            directory=self.directory / label,
        )

    def build(self, flavour: Flavour, *, conntrack: bool = False) -> None:
        """Makes both hosts and the underlay between them.

        With `conntrack`, every host has a NAT chain, empty but there, as Docker's or
        masquerading makes one: from then on the kernel tracks all connections of the host.
        """
        for host in self.hosts:
            host.directory.mkdir(parents=True)
            for namespace in (host.namespace, host.container):
                namespaces.create(namespace)
                if self.ipv6:
                    for scope in ("all", "default"):
                        namespaces.sysctl(namespace, f"net/ipv6/conf/{scope}/disable_ipv6", 0)
            namespaces.sysctl(host.namespace, "net/ipv4/ip_forward", 1)
            if conntrack:
                nft = namespaces.inside(host.namespace, "nft", "-f", "-")
                namespaces.run(*nft, stdin=_NAT_CHAIN)
        mtu = ("mtu", str(UNDERLAY_MTU_BYTES))
        namespaces.run(
            *("ip", "link", "add", "u0", "netns", self.a.namespace, *mtu, "type", "veth"),
            *("peer", "name", "u0", "netns", self.b.namespace, *mtu),
        )
        for host in self.hosts:
            in_host = ("ip", "-n", host.namespace)
            address = f"{host.address}/{UNDERLAY.prefixlen}"
            namespaces.run(*in_host, "address", "add", address, "dev", "u0")
            if self.ipv6:
                number = int(host.address) - int(UNDERLAY.network_address)
                address = f"{UNDERLAY_V6[number]}/{UNDERLAY_V6.prefixlen}"
                namespaces.run(*in_host, "address", "add", address, "dev", "u0", "nodad")
                namespaces.sysctl(host.namespace, "net/ipv6/conf/all/forwarding", 1)
            _set_flavour(host, flavour)
            namespaces.run(*in_host, "link", "set", "u0", "up")

    def attach(self, host: Host, bridge: IPv4Interface, mtu_bytes: int) -> None:
        """Gives a host its bridge and its container, at the address after the bridge's."""
        namespaces.bridge(host.namespace, "br0", str(bridge), mtu_bytes)
        self.inner[host.label] = bridge.ip + 1
        namespaces.plug(
            host.container,
            "eth0",
            f"{bridge.ip + 1}/{bridge.network.prefixlen}",
            to=(host.namespace, "br0"),
            port="veth0",
            mtu_bytes=mtu_bytes,
        )
        via = ("default", "via", str(bridge.ip))
        namespaces.run("ip", "-n", host.container, "route", "add", *via)

    def attach_v6(self, host: Host, bridge: IPv6Interface) -> None:
        """Gives the bridge and the container of a host IPv6 addresses; traffic goes there."""
        length = bridge.network.prefixlen
        for namespace, device, address in (
            (host.namespace, "br0", bridge.ip),
            (host.container, "eth0", bridge.ip + 1),
        ):
            add = ("address", "add", f"{address}/{length}", "dev", device, "nodad")
            namespaces.run("ip", "-n", namespace, *add)
        via = ("default", "via", str(bridge.ip))
        namespaces.run("ip", "-6", "-n", host.container, "route", "add", *via)
        self.inner[host.label] = bridge.ip + 1

    @property
    def target(self) -> IPv4Address | IPv6Address:
        """Where all traffic goes: the container of the second host."""
        return self.inner["b"]

    def offloads(self) -> dict[str, str]:
        """Returns the underlay's offloads as ethtool names them: on or off, `[fixed]` left out."""
        said = namespaces.run(*namespaces.inside(self.a.namespace, "ethtool", "-k", "u0"))
        found = re.findall(r"^\s*([\w-]+): (on|off)", said, re.MULTILINE)
        return dict(found)


def _set_flavour(host: Host, flavour: Flavour) -> None:
    if flavour == "gso":
        return
    known = namespaces.run(*namespaces.inside(host.namespace, "ethtool", "-k", "u0"))
    for name in _SEGMENTATION:
        long_name = {"tso": "tcp-segmentation-offload", "gso": "generic-segmentation-offload"}.get(
            name, "generic-receive-offload" if name == "gro" else name
        )
        state = re.search(rf"^\s*{long_name}: (on|off)( \[fixed\])?", known, re.MULTILINE)
        if state is not None and state[2] is None:
            namespaces.run(*namespaces.inside(host.namespace, "ethtool", "-K", "u0", name, "off"))
    if flavour == "wiregro":
        namespaces.run(*namespaces.inside(host.namespace, "ethtool", "-K", "u0", "gro", "on"))


def remove_all() -> None:
    """Removes every host there is, also those that a killed run left."""
    left = namespaces.existing(PREFIX)
    for namespace in left:
        namespaces.end_processes(namespace)
    for namespace in left:
        namespaces.delete(namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What came to a host from the underlay, with Ethernet headers; GRO shows as long frames."""

    longest_bytes: int
    """Of the first 20,000."""
    mean_bytes: float
    """Of all."""


@contextmanager
def watched_frames(host: Host) -> Iterator[list[Frames]]:
    """Watches a host's end of the underlay; the list holds one `Frames` afterwards."""
    log, path = host.directory / "tcpdump.log", host.directory / "underlay.pcap"
    log.unlink(missing_ok=True)
    process = namespaces.start(
        host.namespace,
        *("tcpdump", "-n", "-s", "64", "-c", "20000", "-Z", "root"),
        *("-i", "u0", "-w", str(path)),
        log=log,
    )
    found: list[Frames] = []
    try:
        if not namespaces.became_true(lambda: "listening on" in log.read_text(), 30.0):
            msg = f"bench: tcpdump does not listen: {log.read_text().strip()}"
            raise LabError(msg)
        before = _received(host)
        yield found
    finally:
        namespaces.stop([process])
    count, size_bytes = (now - then for now, then in zip(_received(host), before, strict=True))
    said = namespaces.run("tcpdump", "-n", "-e", "-r", str(path))
    longest = max(map(int, re.findall(r"\blength (\d+): ", said)), default=0)
    found.append(Frames(longest_bytes=longest, mean_bytes=round(size_bytes / max(1, count), 1)))


def _received(host: Host) -> tuple[int, int]:
    """Returns frames and bytes that came to a host's end of the underlay so far."""
    said = namespaces.run("ip", "-j", "-s", "-n", host.namespace, "link", "show", "dev", "u0")
    counted = json.loads(said)[0]["stats64"]["rx"]
    return counted["packets"], counted["bytes"]
