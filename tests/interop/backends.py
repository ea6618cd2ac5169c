"""The networks of `test_backends.py`: which backend, by which data path, in which families."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from testbed.capture import Capture
from testbed.netns import Rig
from testbed.network import LINKS, Family, Host, Network
from testbed.wait import wait_until

VXLAN_PORT: Final = 8472

_numbers = itertools.count(1)
"""Of pings, so that one is told from all others; a capture alone does not say whose it shows."""

Way = Literal["vxlan", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One network that flanneld and tunneld share."""

    name: str
    backend: Mapping[str, object]
    families: tuple[Family, ...] = (4,)
    tunneld: tuple[str, ...] = ()
    """Options of tunneld."""
    links: tuple[int, ...] = (0, 0, 0, 0)
    """Which link of the underlay each host is on: f1, t1, f2, t2."""
    near: Way = "vxlan"
    """How packets travel between hosts of one link."""

    def __str__(self) -> str:
        return self.name

    def way(self, first: Host, second: Host) -> Way:
        """Returns how packets travel between two hosts."""
        return self.near if first.link is second.link else "vxlan"

    @property
    def is_kernel_vxlan(self) -> bool:
        """Whether tunneld's data path is the kernel's device too."""
        return "kernel" in self.tunneld

    def build(self, rig: Rig) -> Network:
        """Returns the network, every container connected to every other one."""
        network = Network(rig, backend=self.backend, families=self.families)
        for name, link in zip(("f1", "t1", "f2", "t2"), self.links, strict=True):
            self.add(network, name, link)
        network.wait_connected()
        return network

    def add(self, network: Network, name: str, link: int = 0) -> Host:
        """Adds a host that takes part in this scenario."""
        options = self.tunneld if name.startswith("t") else ()
        return network.add(name, *options, link=LINKS[link])


_VXLAN: Final = {"Type": "vxlan"}
_DIRECT: Final = {"Type": "vxlan", "DirectRouting": True}
_KERNEL: Final = ("--datapath", "kernel")

SCENARIOS: Final = (
    Scenario(name="vxlan", backend=_VXLAN),
    Scenario(name="vxlan-kernel", backend=_VXLAN, tunneld=_KERNEL),
    Scenario(name="direct", backend=_DIRECT, links=(0, 0, 1, 1), near="plain"),
    Scenario(
        name="direct-kernel",
        backend=_DIRECT,
        tunneld=_KERNEL,
        links=(0, 0, 1, 1),
        near="plain",
    ),
    Scenario(name="host-gw", backend={"Type": "host-gw"}, near="plain"),
    Scenario(name="dual", backend=_VXLAN, families=(4, 6)),
    Scenario(name="dual-kernel", backend=_VXLAN, families=(4, 6), tunneld=_KERNEL),
)


def observed_way(first: Host, second: Host, family: Family) -> list[tuple[str, str, str]]:
    """Pings once and returns how request and reply crossed the underlay of the first host.

    Each as (way, inner source, inner destination), with the way `vxlan` or `plain`; everything
    else that the underlay carries is left out, also what came late of something earlier.
    """
    number = next(_numbers)
    path = first.space.directory / f"way-{second.name}-{family}.pcap"
    with Capture(first.space, "eth0", "ip or ip6", path) as capture:
        first.container.run(
            *("ping", "-c1", "-W30", "-e", str(number), second.container_address(family))
        )

        def seen() -> list[tuple[str, str, str]]:
            found = [way for packet in capture.packets() if (way := _way(packet, number))]
            return found if len(found) >= 2 else []

        return wait_until(seen, 10, f"a ping {first.name} -> {second.name} in the capture")


def _way(packet: Any, number: int) -> tuple[str, str, str] | None:
    from scapy.layers.inet import UDP
    from scapy.layers.l2 import Ether

    if ends := _ends(packet, number):
        return ("plain", *ends)
    udp = packet.getlayer(UDP)
    if udp is None or udp.dport != VXLAN_PORT:
        return None
    # The capture shows what is on the wire: eight bytes of VXLAN, then the frame (RFC 7348).
    ends = _ends(Ether(bytes(udp)[16:]), number)
    return ends and ("vxlan", *ends)


def _ends(packet: Any, number: int) -> tuple[str, str] | None:
    """Returns source and destination of an echo request or reply of the ping with that number."""
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6

    layer = packet.getlayer(IP) or packet.getlayer(IPv6)
    if layer is None or not isinstance(layer.payload, (ICMP, ICMPv6EchoRequest, ICMPv6EchoReply)):
        return None
    return (layer.src, layer.dst) if layer.payload.id == number else None
