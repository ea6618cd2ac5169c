"""What the kernel's routing netlink speaks of, as values. Pure.

Source: Linux rtnetlink(7); include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunneld.backend.mac import MacAddress
from tunneld.lease.model import IPAddress, IPNetwork

Family = Literal[4, 6]

MAIN_TABLE = 254
"""RT_TABLE_MAIN."""

PROTOCOL_KERNEL = 2
"""RTPROT_KERNEL: a route that came with an address."""

RTN_UNICAST = 1
RTN_UNREACHABLE = 7
"""Route types."""

SCOPE_UNIVERSE = 0
SCOPE_LINK = 253
SCOPE_HOST = 254

DEFAULT_METRIC_V6 = 1024
"""What the kernel gives an IPv6 route without a metric (IP6_RT_PRIO_USER)."""

VXLAN_AGEING_S = 300
"""What the kernel gives a vxlan device without an ageing time (FDB_AGE_DEFAULT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanSettings:
    """What a vxlan device is made with. The defaults are the kernel's own, but for `learning`."""

    vni: int
    port: int
    """UDP, of the others and of ours."""
    local: IPAddress | None
    """Underlay address datagrams leave from."""
    underlay: int
    """Index of the underlay interface; 0: none."""
    gbp: bool = False
    learning: bool = False
    ageing_s: int = VXLAN_AGEING_S
    group: IPAddress | None = None
    """Where frames go for which there is no FDB entry."""
    ttl: int = 0
    """0: the namespace's default."""
    tos: int = 0
    udp_checksum: bool = True
    zero_checksum_v6: tuple[bool, bool] = (False, False)
    """Whether datagrams over IPv6 are sent, and taken, without a checksum."""
    others: frozenset[str] = frozenset()
    """Names of further settings that are on (`proxy`, `l2miss`, …)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunSettings:
    """Whose a TUN device is, and how many hold it (since Linux 4.19)."""

    owner: int | None
    """User id; None: anybody's."""
    group: int | None
    queues: int
    """Those that are attached, and those whose holder has switched them off."""
    is_persistent: bool


INSIDE_KINDS = frozenset({"bridge", "netkit", "tun", "veth", "vxlan"})
"""Kinds of devices by which containers and virtual machines of a host come, or the overlay itself;
some hosts have their uplinks of these kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network device."""

    index: int
    name: str
    mtu_bytes: int
    txqueuelen: int
    is_up: bool
    """Administratively up."""
    is_loopback: bool
    is_multicast: bool
    forwarding: bool
    """IPv4 forwarding of what comes in by the device."""
    alias: str = ""
    """What somebody has written on it (IFLA_IFALIAS)."""
    kind: str = ""
    """`tun`, `bridge`, `vxlan`, …; empty for most hardware."""
    alternative_names: tuple[str, ...] = ()
    """Further names of the device (`ip link property add ... altname`)."""
    mac: MacAddress | None = None
    vxlan: VxlanSettings | None = None
    tun: TunSettings | None = None
    has_carrier: bool = True
    master: int = 0
    """Index of the bridge, bond or VRF that the device belongs to; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCounters:
    """What the kernel has counted on a device since that was made (struct rtnl_link_stats64)."""

    device: str
    rx_packets: int
    rx_bytes: int
    rx_dropped: int
    rx_errors: int
    tx_packets: int
    tx_bytes: int
    tx_dropped: int
    tx_errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address of a device."""

    index: int
    address: IPAddress
    prefix_length: int
    scope: int
    is_lasting: bool = True
    """False: deprecated, temporary, or a duplicate (IPv6)."""
    is_tentative: bool = False
    """The kernel still asks whether another host has it; until then nothing can be bound to it
    (IPv6, RFC 4862 §5.4)."""
    is_duplicate: bool = False
    """Another host has it, so that the kernel does not use it (IPv6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRoute:
    """A route as the kernel holds it."""

    destination: IPNetwork
    type: int = RTN_UNICAST
    protocol: int
    metric: int = 0
    """IPv6: never 0, see `DEFAULT_METRIC_V6`."""
    tos: int = 0
    scope: int = SCOPE_UNIVERSE
    oif: int | None = None
    """IPv6 gives also `unreachable` routes one: the loopback device's."""
    gateway: IPAddress | None = None
    onlink: bool = False
    """The gateway need not be on a network of the device."""
    source: IPAddress | None = None
    """Preferred source address."""
    mtu_bytes: int = 0
    hops: tuple[int, ...] = ()
    """Device indices of a multipath route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourEntry:
    """A permanent neighbour entry."""

    index: int
    address: IPAddress
    mac: MacAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeEntry:
    """A permanent forwarding (FDB) entry of a vxlan device."""

    index: int
    mac: MacAddress
    endpoint: IPAddress
