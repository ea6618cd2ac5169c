"""No tunnel at all: the kernel's routes between the hosts, an MTU of the underlay's."""

from __future__ import annotations

from ipaddress import IPv4Interface

from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.pair import UNDERLAY_MTU_BYTES
from tunneld.lab import namespaces


class Routed(Overlay):
    """What the kernel's routing alone makes of the same traffic."""

    name = "no tunnel"
    label = "routed"
    what = "the kernel's routes between the hosts, no tunnel"

    def start(self) -> None:
        for number, host in enumerate(self.pair.hosts, start=1):
            other = self.pair.hosts[2 - number]
            via = (f"10.5.{3 - number}.0/24", "via", str(other.address), "dev", "u0")
            namespaces.run("ip", "-n", host.namespace, "route", "add", *via)
            self.pair.attach(host, IPv4Interface(f"10.5.{number}.1/24"), UNDERLAY_MTU_BYTES)
