"""Draws a lab with its leases as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface

from tunneld.lab.topology import OVERLAY, UNDERLAY, Topology

BOXES_PER_ROW = 3
_INNER = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What the drawing shows of one host."""

    label: str
    underlay: IPv4Address
    device: str
    bridge: IPv4Interface
    mtu_bytes: int

    @property
    def container(self) -> IPv4Address:
        return self.bridge.network[2]


def draw(topology: Topology, hosts: Sequence[HostView]) -> str:
    """Returns the underlay as a line and below it every host as a box, three in a row."""
    lines = [
        f"lab {topology.name}: {topology.size} hosts, store {topology.store}, "
        f"backend {topology.backend}, network {OVERLAY}"
    ]
    for start in range(0, len(hosts), BOXES_PER_ROW):
        row = hosts[start : start + BOXES_PER_ROW]
        boxes = [_box(host) for host in row]
        width = (_INNER + 4) * len(row)
        lines += ["", f"underlay {UNDERLAY} ".ljust(width, "─")]
        lines += ["  ".join(parts).rstrip() for parts in zip(*boxes, strict=True)]
    return "\n".join(lines)


def _box(host: HostView) -> list[str]:
    left = _INNER // 2
    content = (
        f"{host.label:<9}{host.underlay}",
        f"{host.device:<9}{host.bridge.network[0]}/32",
        f"br0      {host.bridge}",
        f"  └ {host.label}-c {host.container}",
        f"MTU {host.mtu_bytes}",
    )
    return [
        " " * (left + 1) + "│" + " " * (_INNER - left),
        "┌" + "─" * left + "┴" + "─" * (_INNER - left - 1) + "┐",
        *(f"│ {line:<{_INNER - 2}} │" for line in content),
        "└" + "─" * _INNER + "┘",
    ]
