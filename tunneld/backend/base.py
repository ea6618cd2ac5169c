"""What a backend is: the wire side of a network, as values.

Path of a lease: `peer` -> **`backend`** -> `fib`. Pure: no socket, no clock, no netlink.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, Protocol

from tunneld.backend.mac import MacAddress
from tunneld.lease.model import IPAddress, LeaseAttributes, SubnetKey
from tunneld.peer import Peer

Datapath = Literal["userspace", "kernel", "none"]
"""What moves the packets: the engine behind a TUN device; the kernel alone (its own tunnel device
or plain routes); nothing (a lease and no more)."""
OuterDf = Literal["kernel", "probed", "clear"]
"""How datagrams go about the MTU of their path: whole, and what the kernel has heard of the path
holds; whole, and a probe has shown more to pass than the kernel has heard; in fragments, by this
host to what the kernel has heard, and over IPv4 by any router."""
Family = Literal[4, 6]
"""IP version. An inner packet of a family travels over the underlay in the same one, as flannel
has it: a peer of a dual-stack network is reached twice."""
SourceCheck = Literal["strict", "loose", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjacency:
    """How packets for a peer, in one address family, leave and arrive through the engine."""

    encapsulation: str
    """What goes around an inner packet: a name that the backend and the core agree on."""
    endpoint: IPAddress
    """Underlay address of the peer."""
    port: int
    mtu_bytes: int
    """Largest inner packet this adjacency carries."""
    of_peer: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What the encapsulation must know of the peer, by names that those two agree on."""
    outer_df: OuterDf = "kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPath:
    """How packets for a peer leave through a kernel vxlan device."""

    device: str
    next_hop: IPAddress
    """Base address of the peer's subnet: an onlink gateway that the neighbour entry resolves."""
    mac: MacAddress
    endpoint: IPAddress
    """Underlay address of the peer, for the FDB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How one prefix of a peer is reached. At least one of the three is there."""

    adjacency: Adjacency | None = None
    """Stays beside `gateway`: the other side may still send by the tunnel."""
    kernel: KernelPath | None = None
    """Not beside `gateway`: a kernel device takes what comes from anybody."""
    gateway: IPAddress | None = None
    """A plain route by the underlay interface goes before the tunnel: the peer is on the same
    link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanDevice:
    """A kernel vxlan device as it must be."""

    name: str
    vni: int
    port: int
    local: IPAddress
    """Underlay address datagrams leave from."""
    mac: MacAddress
    gbp: bool
    learning: bool
    mtu_bytes: int
    address: IPAddress
    """Overlay address, with full prefix length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vtep:
    """What the engine must know to be the end of VXLAN tunnels."""

    vni: int
    gbp: bool
    mac: MacAddress | None
    """Inner Ethernet address for IPv4; None: this host has none."""
    mac_v6: MacAddress | None
    """Inner Ethernet address for IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What a backend may know about this host."""

    address: IPv4Address | None
    """Underlay address by which this host sends and receives; None: it has none."""
    address_v6: IPv6Address | None
    public_ip: IPv4Address | None
    """What the others are told; differs from `address` behind NAT."""
    public_ipv6: IPv6Address | None
    underlay_mtu_bytes: int
    mac: MacAddress
    """VTEP address for IPv4, the same after every restart."""
    mac_v6: MacAddress


class Unusable(Exception):  # noqa: N818 - a verdict on somebody's lease, not an error of ours
    """A peer this backend cannot reach in a family.

    `reason` names the counter, `detail` goes to the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Backend(Protocol):
    """One backend of one network, with its options parsed and in range.

    A further backend is one more file beside this one, and a line in `backend/__init__.py`.
    """

    type: ClassVar[str]

    @property
    def datapath(self) -> Datapath:
        """What moves the packets."""
        ...

    @property
    def families(self) -> tuple[Family, ...]:
        """The families of the network, IPv4 first."""
        ...

    @property
    def remarks(self) -> tuple[str, ...]:
        """Options that have no effect here, with the reason; for the log."""
        ...

    @property
    def port(self) -> int | None:
        """UDP port, here and at every peer; None: no datagrams are sent."""
        ...

    @property
    def source_ports(self) -> int:
        """Sockets per worker and family that flows are spread over; 0: all leave from `port`."""
        ...

    @property
    def device_template(self) -> str | None:
        """Name of the TUN device, `%d` for the first free number; None: there is none."""
        ...

    @property
    def source_check(self) -> SourceCheck:
        """The network's `SourceCheck`; the command line may override it."""
        ...

    @property
    def wants_on_link(self) -> bool:
        """Whether `reach` goes by which peers are on the same link."""
        ...

    def overhead_bytes(self, family: Family) -> int:
        """Returns what the encapsulation adds to a packet of that family, outer IP header too."""
        ...

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the MTU of the overlay, which is also FLANNEL_MTU.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        ...

    def check(self, here: Here) -> None:
        """Refuses a host on which this backend cannot work.

        Raises:
            InterfaceError: the reason, and what to do about it.
        """
        ...

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns what this node's lease must say, flannel's to the byte."""
        ...

    def vtep(self, here: Here) -> Vtep | None:
        """Returns what the engine must know about VXLAN; None: no VXLAN is spoken there."""
        ...

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns the kernel devices that this host needs."""
        ...

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> Reach | None:
        """Returns how the peer's subnet of a family is reached; None: by no doing of this backend.

        `on_link` holds the underlay addresses that are reached without a gateway.

        Raises:
            Unusable: the peer's lease does not fit this backend.
        """
        ...
