"""Desired and actual state of a host, as values, and the changes between them.

Path of a lease: `backend` -> **`fib`** -> `engine` | `host`. Pure.

`engine` and `host` report what is there in these same types, so that every event, whatever
it was, leads to `difference(desired, actual)` and never to a lone command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from tunneld.backend.base import Adjacency

LOCAL: Literal["local"] = "local"
"""The target of a FIB entry whose addresses are this host's own."""

SourceCheck = Literal["strict", "loose", "off"]

FirewallMode = Literal["auto", "nftables", "iptables", "off"]
"""What carries a `Firewall` out. `nftables`: a table of our own only. `iptables`: no such table.
`off`: nothing, so that the operator's rules must do it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the native data path must know beside the FIB."""

    source_check: SourceCheck
    device_mtu_bytes: int
    icmp_source: IPv4Address
    """Source address of ICMP errors the engine sends: the host's overlay address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What the native data path holds, or must hold."""

    settings: EngineSettings | None = None
    adjacencies: Mapping[str, Adjacency] = field(default_factory=dict)
    """By name: the peer's subnet, as text."""
    entries: Mapping[IPv4Network, str] = field(default_factory=dict)
    """Prefix to the name of an adjacency, or to `LOCAL`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChange:
    """A transaction on the engine: all of it takes effect, or nothing."""

    settings: EngineSettings | None = None
    """None: as they are."""
    put_adjacencies: Mapping[str, Adjacency] = field(default_factory=dict)
    drop_adjacencies: tuple[str, ...] = ()
    put_entries: Mapping[IPv4Network, str] = field(default_factory=dict)
    drop_entries: tuple[IPv4Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.settings
            or self.put_adjacencies
            or self.drop_adjacencies
            or self.put_entries
            or self.drop_entries
        )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Route:
    """A kernel route of ours (marked with our protocol number)."""

    destination: IPv4Network
    kind: Literal["device", "unreachable"]
    """`device`: out of the overlay device. `unreachable`: answered with ICMP (type 3 code 1)."""
    mtu_bytes: int = 0
    """MTU metric; 0: the device's."""
    metric: int = 0
    """Priority; 0 is the strongest. `unreachable` routes stand far behind the bridge's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Settings of the overlay device."""

    address: IPv4Address
    """With length /32: the base address of the own subnet, as flannel's."""
    mtu_bytes: int
    txqueuelen: int
    forwarding: bool
    """IPv4 forwarding of packets that come in by this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayPort:
    """Where encapsulated datagrams arrive, and where peers expect them."""

    address: IPv4Address
    port: int
    """UDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallMark:
    """Some bits of a packet's mark."""

    value: int
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """The meaning of our rules, whatever tool carries them out.

    Always: the source address of what goes from one overlay subnet to another is kept.
    """

    network: IPv4Network
    subnet: IPv4Network
    masquerade: bool
    """As flannel's --ip-masq."""
    random_fully: bool = True
    forward: bool = True
    """Whether forwarding from and to the network is accepted."""
    notrack: UnderlayPort | None = None
    """Datagrams that connection tracking leaves alone; None: none."""
    accept_mark: FirewallMark | None = None
    """What Docker's nftables rules accept (its --bridge-accept-fwmark); set on what the overlay
    brings for the own subnet. None: no mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetEnv:
    """The fields of `subnet.env`, as flannel writes them."""

    network: IPv4Network | None
    subnet: IPv4Network | None
    """The own subnet; written as base + 1 with its length."""
    mtu_bytes: int
    ip_masq: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What the operating system holds of ours, or must hold."""

    device: Device | None = None
    routes: frozenset[Route] = frozenset()
    firewall: Firewall | None = None
    subnet_env: SubnetEnv | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """What to do to the operating system, in this order: device, routes, firewall, file."""

    device: Device | None = None
    drop_routes: frozenset[Route] = frozenset()
    put_routes: frozenset[Route] = frozenset()
    firewall: Firewall | None = None
    subnet_env: SubnetEnv | None = None

    def __bool__(self) -> bool:
        return bool(
            self.device or self.drop_routes or self.put_routes or self.firewall or self.subnet_env
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything a host must hold for its network."""

    engine: EngineState
    host: HostState


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What stands between what is and what must be."""

    engine: EngineChange
    host: HostChange
