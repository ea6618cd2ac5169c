"""Finds out which underlay addresses are on the same link as this host.

Path of a lease: the kernel's routing -> **`host.on_link`** -> `backend` (plain routes).

Source: flannel `pkg/ip/iface.go` (DirectRouting: exactly one route, and no gateway).
"""

from __future__ import annotations

from collections.abc import Iterable

from tunneld.errors import HostError
from tunneld.host.netlink import RTN_UNICAST, Netlink
from tunneld.host.underlay import Underlay
from tunneld.lease.model import IPAddress


async def on_link(
    netlink: Netlink, underlay: Underlay, addresses: Iterable[IPAddress]
) -> frozenset[IPAddress]:
    """Returns those addresses that are reached without a gateway, out of the underlay interface.

    An address without any route is not among them.
    """
    return frozenset(
        [address for address in addresses if await _is_on_link(netlink, underlay, address)]
    )


async def _is_on_link(netlink: Netlink, underlay: Underlay, address: IPAddress) -> bool:
    try:
        route = await netlink.route_to(address)
    except HostError:  # the kernel's word for: no route
        return False
    return (
        route.type == RTN_UNICAST
        and route.gateway is None
        and not route.hops
        and route.oif == underlay.index
    )
