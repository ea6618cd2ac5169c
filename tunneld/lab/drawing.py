"""Draws a lab with its leases as text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from tunneld.lab.topology import OVERLAY, OVERLAY_V6, UNDERLAY, UNDERLAY_V6, Topology
from tunneld.lease.model import IPAddress

BOXES_PER_ROW = 3
_INNER = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What the drawing shows of one host."""

    label: str
    underlays: tuple[IPAddress, ...]
    """One for each of `bridges`: packets travel in their own family."""
    devices: tuple[str, ...]
    """Empty: packets take plain routes. The kernel's vxlan has one for each of `bridges`."""
    bridges: tuple[IPv4Interface | IPv6Interface, ...]
    """Of each family of the overlay, IPv4 first."""
    mtu_bytes: int

    @property
    def bridge(self) -> IPv4Interface | IPv6Interface:
        return self.bridges[0]

    @property
    def containers(self) -> tuple[IPAddress, ...]:
        return tuple(bridge.network[2] for bridge in self.bridges)

    @property
    def container(self) -> IPAddress:
        return self.containers[0]


def draw(topology: Topology, hosts: Sequence[HostView]) -> str:
    """Returns the underlay as a line and below it every host as a box, in rows."""
    networks = [OVERLAY] * topology.has_ipv4 + [OVERLAY_V6] * topology.has_ipv6
    underlays = [UNDERLAY, UNDERLAY_V6][: 1 + topology.has_ipv6]
    lines = [
        f"lab {topology.name}: {topology.size} hosts, store {topology.store}, "
        f"backend {topology.backend}, network {' and '.join(map(str, networks))}"
    ]
    contents = [_content(host) for host in hosts]
    inner = max([_INNER, *(len(line) + 2 for content in contents for line in content)])
    per_row = max(1, BOXES_PER_ROW * (_INNER + 4) // (inner + 4))
    for start in range(0, len(hosts), per_row):
        row = contents[start : start + per_row]
        boxes = [_box(content, inner) for content in row]
        width = (inner + 4) * len(row)
        lines += ["", f"underlay {' and '.join(map(str, underlays))} ".ljust(width, "─")]
        lines += ["  ".join(parts).rstrip() for parts in zip(*boxes, strict=True)]
    return "\n".join(lines)


def _content(host: HostView) -> list[str]:
    rows: list[tuple[str, Sequence[object]]] = [
        (host.label, host.underlays),
        *_devices(host),
        ("br0", host.bridges),
    ]
    width = max(9, *(len(name) + 1 for name, _ in rows))
    return [
        *(
            f"{'' if number else name:<{width}}{address}"
            for name, addresses in rows
            for number, address in enumerate(addresses)
        ),
        *(f"  └ {host.label}-c {address}" for address in host.containers),
        f"MTU {host.mtu_bytes}",
    ]


def _devices(host: HostView) -> list[tuple[str, Sequence[object]]]:
    bases = [f"{bridge.network[0]}/{bridge.max_prefixlen}" for bridge in host.bridges]
    if len(host.devices) > 1:
        return [(device, [base]) for device, base in zip(host.devices, bases, strict=True)]
    return [(device, bases) for device in host.devices]


def _box(content: Sequence[str], inner: int) -> list[str]:
    left = inner // 2
    return [
        " " * (left + 1) + "│" + " " * (inner - left),
        "┌" + "─" * left + "┴" + "─" * (inner - left - 1) + "┐",
        *(f"│ {line:<{inner - 2}} │" for line in content),
        "└" + "─" * inner + "┘",
    ]
