"""Desired and actual state of a host, as values, and the changes between them.

Path of a lease: `backend` -> **`fib`** -> `engine` | `host`. Pure.

`engine` and `host` report what is there in these same types, so that every event, whatever
it was, leads to "desired minus actual" and never to a lone command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, Literal, TypeVar

from tunneld.backend.base import Adjacency, SourceCheck, Vtep, VxlanDevice
from tunneld.backend.mac import MacAddress
from tunneld.lease.model import IPAddress, IPNetwork

LOCAL: Literal["local"] = "local"
"""The target of a FIB entry whose addresses are this host's own."""

_Net = TypeVar("_Net", IPv4Network, IPv6Network)

FirewallMode = Literal["auto", "nftables", "iptables", "off"]
"""What carries a `Firewall` out. `nftables`: a table of our own only. `iptables`: no such table.
`off`: nothing, so that the operator's rules must do it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the native data path must know beside the FIB."""

    source_check: SourceCheck
    device_mtu_bytes: int
    icmp_source: IPv4Address | None
    """Source address of ICMP errors the engine sends: the host's overlay address. None: the
    network has no IPv4."""
    icmp_source_v6: IPv6Address | None = None
    """The same for ICMPv6."""
    vtep: Vtep | None = None
    """None: datagrams are raw packets, without a VXLAN header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityEndpoint:
    """A host that handshakes are made with, as its record says where to try."""

    endpoint: IPAddress | None
    """None: it has no address that this host can reach; it may begin itself."""
    port: int
    """UDP port of its encryption."""
    instance: str | None
    """16 hexadecimal digits, others at every start of the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What the native data path holds, or must hold."""

    settings: EngineSettings | None = None
    adjacencies: Mapping[str, Adjacency] = field(default_factory=dict)
    """By name: the peer's subnet in that family, as text."""
    entries: Mapping[IPNetwork, str] = field(default_factory=dict)
    """Prefix to the name of an adjacency, or to `LOCAL`."""
    identities: Mapping[str, IdentityEndpoint] = field(default_factory=dict)
    """Who is trusted, by public key in base64. Whoever is not in it is not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChange:
    """A transaction on the engine: all of it takes effect, or nothing."""

    settings: EngineSettings | None = None
    """None: as they are."""
    put_adjacencies: Mapping[str, Adjacency] = field(default_factory=dict)
    drop_adjacencies: tuple[str, ...] = ()
    put_entries: Mapping[IPNetwork, str] = field(default_factory=dict)
    drop_entries: tuple[IPNetwork, ...] = ()
    put_identities: Mapping[str, IdentityEndpoint] = field(default_factory=dict)
    drop_identities: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.settings
            or self.put_adjacencies
            or self.drop_adjacencies
            or self.put_entries
            or self.drop_entries
            or self.put_identities
            or self.drop_identities
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A kernel route of ours (marked with our protocol number)."""

    destination: IPNetwork
    kind: Literal["overlay", "unreachable", "gateway", "onlink"]
    """`overlay`: out of the TUN device. `unreachable`: answered with ICMP (type 3 code 1, or
    ICMPv6 type 1 code 0). `gateway`: by the underlay interface, to a host on the same link.
    `onlink`: out of the kernel vxlan device `device`."""
    gateway: IPAddress | None = None
    """`gateway`, `onlink`: the next hop."""
    device: str | None = None
    """`onlink`: name of the device."""
    mtu_bytes: int = 0
    """MTU metric; 0: the device's."""
    metric: int = 0
    """Priority; 0 is the strongest (IPv6 has none: there it stands for the kernel's default,
    1024). `unreachable` routes stand far behind the bridge's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Settings of the overlay's TUN device."""

    address: IPv4Address | None
    """With length /32: the base address of the own subnet, as flannel's. None: no IPv4."""
    address_v6: IPv6Address | None = None
    """With length /128: the base address of the own IPv6 subnet. None: IPv6 stays off it."""
    mtu_bytes: int
    txqueuelen: int
    forwarding: bool
    """Forwarding of packets that come in by this device, in the families it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A permanent neighbour entry of a kernel vxlan device: next hop to inner Ethernet address."""

    device: str
    address: IPAddress
    mac: MacAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class FdbEntry:
    """A permanent FDB entry of a kernel vxlan device: inner Ethernet address to underlay host."""

    device: str
    mac: MacAddress
    endpoint: IPAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayPort:
    """Where encapsulated datagrams arrive, and where peers expect them."""

    address: IPAddress
    port: int
    """UDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallMark:
    """Some bits of a packet's mark."""

    value: int
    mask: int = 0xFFFFFFFF


DATAGRAM_MARK = FirewallMark(value=0x1000, mask=0x1000)
"""What the data path's own datagrams carry, by which the firewall tells them from all others.

One bit, which kube-proxy (0x4000, 0x8000), CNI's port maps (0x2000), Cilium (0x0f00) and Calico
(0xffff0000) leave alone.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlayGuard:
    """Who may send to the overlay's ports, of a peer and of this host.

    To a peer: the data path, and nobody else on this host. Peers know each other by their underlay
    addresses alone. So a datagram that leaves this host from its own address, be it translated to
    it, counts there as one of the overlay. To this host: whoever is no container of its own.
    """

    ports: tuple[int, ...]
    """UDP, at every peer: the backend's, and that of encryption. At least one."""
    peers: frozenset[IPAddress] = frozenset()
    """Underlay addresses of all that hold a lease."""
    devices: frozenset[str] = frozenset()
    """Names of the kernel's devices that make the overlay's datagrams; empty: the engine does."""
    own: frozenset[IPAddress] = frozenset()
    """This host's underlay addresses, where the engine takes datagrams. The kernel's devices take
    them at every address."""
    vni: int = 0
    """VXLAN network of `devices`: others may use the kernel's port too."""
    interface: int = 0
    """Index of the underlay interface, which brings datagrams from outside whatever its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayNet(Generic[_Net]):
    """The overlay in one address family."""

    network: _Net
    subnet: _Net
    """This host's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """The meaning of our rules, whatever tool carries them out.

    Always: the source address of what goes from one overlay subnet to another is kept.
    """

    ipv4: OverlayNet[IPv4Network] | None
    ipv6: OverlayNet[IPv6Network] | None = None
    """None: no rule is made for that family."""
    devices: frozenset[str] = frozenset()
    """Names of the devices by which the overlay comes and goes; empty: no tunnel device at all."""
    direct: bool = False
    """Whether some peers are reached without a tunnel, so that their packets come and go by the
    underlay interface."""
    masquerade: bool
    """As flannel's --ip-masq."""
    random_fully: bool = True
    forward: bool = True
    """Whether forwarding from and to the network is accepted."""
    notrack: frozenset[UnderlayPort] = frozenset()
    """Datagrams that connection tracking leaves alone."""
    accept_mark: FirewallMark | None = None
    """What Docker's nftables rules accept (its --bridge-accept-fwmark); set on what the overlay
    brings for the own subnet. None: no mark."""
    guard: UnderlayGuard | None = None
    """None: the overlay has no datagrams."""
    sealed: bool = False
    """Whether packets that say they come from the overlay are taken only by the way that leads
    there: encryption is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetEnv:
    """The fields of `subnet.env`, as flannel writes them."""

    network: IPv4Network | None
    subnet: IPv4Network | None
    """The own subnet; written as base + 1 with its length."""
    network_v6: IPv6Network | None = None
    subnet_v6: IPv6Network | None = None
    mtu_bytes: int
    ip_masq: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What the operating system holds of ours, or must hold."""

    device: Device | None = None
    """The TUN device; None: there is none."""
    vxlan_devices: frozenset[VxlanDevice] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[FdbEntry] = frozenset()
    routes: frozenset[Route] = frozenset()
    firewall: Firewall | None = None
    subnet_env: SubnetEnv | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChange:
    """What to do to the operating system.

    In this order: devices, neighbours and FDB, routes, firewall, file. Of each kind what is
    dropped goes after what is put, so that nothing gapes; nothing is dropped whose place in the
    kernel something put takes.
    """

    device: Device | None = None
    put_vxlan_devices: frozenset[VxlanDevice] = frozenset()
    drop_vxlan_devices: frozenset[VxlanDevice] = frozenset()
    put_neighbours: frozenset[Neighbour] = frozenset()
    drop_neighbours: frozenset[Neighbour] = frozenset()
    put_fdb: frozenset[FdbEntry] = frozenset()
    drop_fdb: frozenset[FdbEntry] = frozenset()
    put_routes: frozenset[Route] = frozenset()
    drop_routes: frozenset[Route] = frozenset()
    firewall: Firewall | None = None
    subnet_env: SubnetEnv | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, member.name) for member in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything a host must hold for its network, a part for each executor."""

    engine: EngineState
    host: HostState
