"""The MTU of the devices by which packets leave that come from an underlay address.

Path of a lease: `host.interfaces` -> **`host.way_out`** -> `host.underlay`.

Mostly that is the device that holds the address. A host with several uplinks and a routing daemon
has its address on `lo`, on a dummy device or on that of a VRF, and nothing leaves by these: what
counts there is the narrowest of the uplinks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunneld.host.interfaces import Interface
from tunneld.host.netlink import INSIDE_KINDS, RTN_UNICAST, Family, KernelRoute, Netlink
from tunneld.host.routes import PROTOCOL
from tunneld.lease.model import IPAddress

HOLDERS = frozenset({"dummy", "vrf"})
"""Kinds of devices that hold addresses and lead to no other host."""

MOST_UPLINKS = 64


async def mtu_bytes_out_of(
    interface: Interface,
    addresses: Iterable[IPAddress],
    interfaces: Sequence[Interface],
    netlink: Netlink,
) -> int:
    """Returns the MTU that packets from `addresses` of `interface` find.

    Raises:
        HostError: the kernel does not tell its routes.
    """
    if not leads_nowhere(interface):
        return interface.link.mtu_bytes
    families: set[Family] = {4 if address.version == 4 else 6 for address in addresses}
    found = []
    for family in families:
        routes = await netlink.default_routes(family)
        for uplink in () if routes else _uplinks(interfaces):
            # A table without a default route may be a long one: of each device one will do.
            route = await netlink.any_route_by(uplink.link.index, family, besides=PROTOCOL)
            routes += [] if route is None else [route]
        found.append(narrowest_way(routes, interfaces))
    return min((one for one in found if one is not None), default=interface.link.mtu_bytes)


def _uplinks(interfaces: Iterable[Interface]) -> list[Interface]:
    """Returns the devices that may lead to other hosts, those of containers last."""
    usable = [
        one
        for one in interfaces
        if one.link.is_up and not one.link.master and not leads_nowhere(one)
    ]
    return sorted(usable, key=lambda one: one.link.kind in INSIDE_KINDS)[:MOST_UPLINKS]


def leads_nowhere(interface: Interface) -> bool:
    """Returns whether a device only holds addresses, of which packets leave by others."""
    return interface.link.is_loopback or interface.link.kind in HOLDERS


def narrowest_way(routes: Iterable[KernelRoute], interfaces: Iterable[Interface]) -> int | None:
    """Returns the smallest MTU of the ways to other hosts; None: there is none. Pure.

    Our own routes lead into the overlay, and do not count.
    """
    links = {one.link.index: one for one in interfaces if not leads_nowhere(one)}
    ways = [
        min(links[index].link.mtu_bytes, route.mtu_bytes or links[index].link.mtu_bytes)
        for route in routes
        if route.type == RTN_UNICAST and route.protocol != PROTOCOL
        for index in (route.hops or (route.oif,))
        if index is not None and index in links
    ]
    return min(ways, default=None)
