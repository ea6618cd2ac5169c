"""Writes down everything a host must hold for its network, as one value.

Path of a lease: `fib.plan` -> **`fib.compose`** -> `fib.diff` -> `engine` | `host`. Pure.

Source: flannel `pkg/backend/vxlan/vxlan_network.go` (neighbour, FDB and route of a peer),
`pkg/backend/route_network.go` (plain routes), `pkg/backend/udp/` (network route).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from tunneld.backend.base import Adjacency, Datapath, Reach, SourceCheck, Vtep, VxlanDevice
from tunneld.backend.families import MIN_MTU_BYTES
from tunneld.fib.state import (
    LOCAL,
    Device,
    EngineSettings,
    EngineState,
    FdbEntry,
    Firewall,
    FirewallMark,
    HostState,
    IdentityEndpoint,
    Neighbour,
    OverlayNet,
    Route,
    State,
    SubnetEnv,
    UnderlayGuard,
    UnderlayPort,
)
from tunneld.lease.model import IPAddress, IPNetwork

UNREACHABLE_METRIC = 2**31
"""Far behind every route of a bridge, so that it speaks only when no bridge has the subnet."""

TXQUEUELEN_PACKETS = 1000
"""Linux' default of 500 for TUN devices drops at round trips of 20 ms and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """This host's part of the overlay, and what carries it."""

    ipv4: OverlayNet[IPv4Network] | None
    ipv6: OverlayNet[IPv6Network] | None = None
    datapath: Datapath
    device: str | None = None
    """Name of the TUN device; None: there is none."""
    vxlan_devices: tuple[VxlanDevice, ...] = ()
    vtep: Vtep | None = None
    mtu_bytes: int
    """Of the TUN device: the most that any peer takes."""
    flannel_mtu_bytes: int | None = None
    """What containers go by: what every peer takes. None: the same."""
    sealed: bool = False
    """Whether encryption is in force."""
    blocked: Mapping[IPNetwork, Adjacency] = field(default_factory=dict)
    """Of subnets that nothing goes to, and that nothing plain may speak for."""
    kept: frozenset[IPNetwork] = frozenset()
    """Networks of before, within this one, whose packets `host.barrier` keeps back."""
    source_check: SourceCheck

    def __iter__(self) -> Iterator[OverlayNet[IPv4Network] | OverlayNet[IPv6Network]]:
        return (net for net in (self.ipv4, self.ipv6) if net is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator says about the packet filter."""

    ip_masq: bool
    random_fully: bool = True
    forward: bool = True
    notrack: frozenset[UnderlayPort] = frozenset()
    accept_mark: FirewallMark | None = None
    ports: tuple[int, ...] = ()
    """UDP, to which nobody but the data path may send; empty: the overlay has no datagrams."""
    own: frozenset[IPAddress] = frozenset()
    """This host's underlay addresses."""
    interface: int = 0
    """Index of the underlay interface."""


def compose(
    overlay: Overlay,
    reaches: Mapping[IPNetwork, Reach],
    rules: Rules,
    members: Collection[IPAddress] = (),
    identities: Mapping[str, IdentityEndpoint] | None = None,
) -> State:
    """Returns the desired state of a host, with its peers' subnets as `reaches` has them.

    `members` are the underlay addresses of all that hold a lease, also of those that are not
    reached: they may take what comes from this host. With `identities` handshakes are made.
    """
    kernel = [reach.kernel for reach in reaches.values() if reach.kernel is not None]
    devices = {device.name for device in overlay.vxlan_devices}
    if overlay.device is not None:
        devices.add(overlay.device)
    return State(
        engine=_engine(overlay, reaches, identities or {})
        if overlay.datapath == "userspace"
        else EngineState(),
        host=HostState(
            device=_device(overlay) if overlay.datapath == "userspace" else None,
            vxlan_devices=frozenset(overlay.vxlan_devices),
            neighbours=frozenset(
                Neighbour(device=path.device, address=path.next_hop, mac=path.mac)
                for path in kernel
            ),
            fdb=frozenset(
                FdbEntry(device=path.device, mac=path.mac, endpoint=path.endpoint)
                for path in kernel
            ),
            routes=frozenset(_routes(overlay, reaches)),
            firewall=Firewall(
                ipv4=overlay.ipv4,
                ipv6=overlay.ipv6,
                devices=frozenset(devices),
                direct=any(reach.gateway is not None for reach in reaches.values()),
                masquerade=rules.ip_masq,
                random_fully=rules.random_fully,
                forward=rules.forward,
                notrack=rules.notrack,
                accept_mark=rules.accept_mark,
                sealed=overlay.sealed,
                guard=None
                if not rules.ports
                else UnderlayGuard(
                    ports=rules.ports,
                    peers=frozenset(members),
                    devices=frozenset(device.name for device in overlay.vxlan_devices),
                    own=rules.own,
                    vni=next((device.vni for device in overlay.vxlan_devices), 0),
                    interface=rules.interface,
                ),
            ),
            subnet_env=SubnetEnv(
                network=overlay.ipv4.network if overlay.ipv4 else None,
                subnet=overlay.ipv4.subnet if overlay.ipv4 else None,
                network_v6=overlay.ipv6.network if overlay.ipv6 else None,
                subnet_v6=overlay.ipv6.subnet if overlay.ipv6 else None,
                mtu_bytes=overlay.flannel_mtu_bytes or overlay.mtu_bytes,
                ip_masq=rules.ip_masq,
            ),
        ),
    )


def _engine(
    overlay: Overlay,
    reaches: Mapping[IPNetwork, Reach],
    identities: Mapping[str, IdentityEndpoint],
) -> EngineState:
    adjacencies = dict(overlay.blocked) | {
        prefix: reach.adjacency for prefix, reach in reaches.items() if reach.adjacency is not None
    }
    local: dict[IPNetwork, str] = {net.subnet: LOCAL for net in overlay}
    return EngineState(
        settings=EngineSettings(
            source_check=overlay.source_check,
            device_mtu_bytes=overlay.mtu_bytes,
            icmp_source=overlay.ipv4.subnet.network_address if overlay.ipv4 else None,
            icmp_source_v6=overlay.ipv6.subnet.network_address if overlay.ipv6 else None,
            vtep=overlay.vtep,
        ),
        adjacencies={str(prefix): adjacency for prefix, adjacency in adjacencies.items()},
        entries=local | {prefix: str(prefix) for prefix in adjacencies},
        identities=identities,
    )


def _device(overlay: Overlay) -> Device:
    return Device(
        address=overlay.ipv4.subnet.network_address if overlay.ipv4 else None,
        address_v6=overlay.ipv6.subnet.network_address if overlay.ipv6 else None,
        mtu_bytes=overlay.mtu_bytes,
        txqueuelen=TXQUEUELEN_PACKETS,
        forwarding=True,
    )


def _routes(overlay: Overlay, reaches: Mapping[IPNetwork, Reach]) -> Iterator[Route]:
    for net in overlay:
        yield Route(destination=net.subnet, kind="unreachable", metric=UNREACHABLE_METRIC)
        if overlay.datapath == "userspace":
            yield Route(destination=net.network, kind="overlay")
    if overlay.datapath == "userspace":
        # Stronger than what keeps them back, which is narrower than the network's own.
        for network in overlay.kept - {net.network for net in overlay}:
            yield Route(destination=network, kind="overlay")
    for prefix, reach in reaches.items():
        route = _to_peer(prefix, reach, overlay.mtu_bytes)
        if route is not None:
            yield route


def _to_peer(prefix: IPNetwork, reach: Reach, device_mtu_bytes: int) -> Route | None:
    """Returns the route to a peer; None: the network's own covers it."""
    if reach.gateway is not None:
        return Route(destination=prefix, kind="gateway", gateway=reach.gateway)
    if reach.kernel is not None:
        path = reach.kernel
        return Route(destination=prefix, kind="onlink", gateway=path.next_hop, device=path.device)
    if reach.adjacency is not None and reach.adjacency.mtu_bytes < device_mtu_bytes:
        # So that the kernel itself answers packets that are too large for this peer.
        least = MIN_MTU_BYTES[4 if prefix.version == 4 else 6]
        return Route(
            destination=prefix,
            kind="overlay",
            mtu_bytes=max(reach.adjacency.mtu_bytes, least),
        )
    return None
