"""Keeps our kernel routes: those marked with our protocol number, and no others.

Path of a lease: `host.actuator` -> **`host.routes`** -> the kernel's main table.

A route is ours when it carries `PROTOCOL` and leads to our device, or answers `unreachable`
inside our network (such a route names no device, so that the network tells two daemons of one
host apart). A route of somebody else in the same place is never replaced.

Source: Linux rtnetlink(7); flannel `pkg/backend/udp/udp_network_amd64.go` (network route).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from tunneld.errors import HostError
from tunneld.fib.state import Route
from tunneld.host.netlink import (
    RTN_UNICAST,
    RTN_UNREACHABLE,
    SCOPE_LINK,
    KernelRoute,
    Netlink,
)

PROTOCOL = 116
"""Routing protocol number of our routes: ASCII `t`, unassigned in iproute2's rt_protos."""


class Routes:
    """The routes of one overlay device."""

    def __init__(self, netlink: Netlink, network: IPv4Network | None) -> None:
        self._netlink = netlink
        self._network = network

    async def observe(self, index: int | None, source: IPv4Address | None) -> frozenset[Route]:
        """Returns our routes that are as they must be.

        A route to the device whose preferred source is not `source` is left out, so that it
        counts as missing and is put again.
        """
        routes = await self._ours(index)
        return frozenset(
            Route(
                destination=route.destination,
                kind="unreachable" if route.type == RTN_UNREACHABLE else "device",
                mtu_bytes=route.mtu_bytes,
                metric=route.metric,
            )
            for route in routes
            if route.type == RTN_UNREACHABLE or route.source == source
        )

    async def apply(
        self,
        index: int,
        source: IPv4Address | None,
        *,
        put: Iterable[Route],
        drop: Iterable[Route],
    ) -> None:
        """Puts and removes routes; one that changes is replaced without a gap.

        Args:
            index: the overlay device.
            source: preferred source of what the host itself sends; None: the kernel's choice.
            put: routes that must be there.
            drop: routes that must not be there, unless `put` holds one in the same place.

        Raises:
            HostError: a route of somebody else is in the way; the message names it.
        """
        there = await self._ours(index)
        taken = {_place(route): route for route in there}
        kept = set()
        for route in sorted(put):
            wanted = self._wanted(route, index, source)
            kept.add(_place(wanted))
            current = taken.get(_place(wanted))
            if current is None:
                if not await self._netlink.add_route(wanted):
                    raise await self._in_the_way(wanted)
            elif current != wanted:
                await self._netlink.replace_route(wanted)
        for route in sorted(drop):
            place = (route.destination, route.metric)
            if place in taken and place not in kept:
                await self._netlink.remove_route(taken[place])

    async def change_source(self, index: int, source: IPv4Address) -> None:
        """Gives our routes to the device a new preferred source.

        To be called while the old address is still there: the kernel removes the routes that
        prefer an address together with it.
        """
        for route in await self._ours(index):
            if route.type == RTN_UNICAST and route.source != source:
                kind = _as_route(route)
                await self._netlink.replace_route(self._wanted(kind, index, source))

    async def clear(self, index: int | None) -> None:
        """Removes all our routes."""
        for route in await self._ours(index):
            await self._netlink.remove_route(route)

    async def _ours(self, index: int | None) -> list[KernelRoute]:
        return [route for route in await self._netlink.routes() if self._is_ours(route, index)]

    def _is_ours(self, route: KernelRoute, index: int | None) -> bool:
        if route.protocol != PROTOCOL:
            return False
        if route.type == RTN_UNREACHABLE:
            return self._network is None or route.destination.subnet_of(self._network)
        return route.type == RTN_UNICAST and index is not None and route.oif == index

    def _wanted(self, route: Route, index: int, source: IPv4Address | None) -> KernelRoute:
        if route.kind == "unreachable":
            return KernelRoute(
                destination=route.destination,
                type=RTN_UNREACHABLE,
                protocol=PROTOCOL,
                metric=route.metric,
            )
        return KernelRoute(
            destination=route.destination,
            protocol=PROTOCOL,
            metric=route.metric,
            scope=SCOPE_LINK,
            oif=index,
            source=source,
            mtu_bytes=route.mtu_bytes,
        )

    async def _in_the_way(self, wanted: KernelRoute) -> HostError:
        names = {link.index: link.name for link in await self._netlink.links()}
        for route in await self._netlink.routes():
            if _place(route) == _place(wanted):
                device = "" if route.oif is None else f" dev {names.get(route.oif, route.oif)}"
                via = "" if route.gateway is None else f" via {route.gateway}"
                return HostError(
                    f"cannot add route {wanted.destination} metric {wanted.metric}: "
                    f"{route.destination}{via}{device} proto {route.protocol} is in its place; "
                    "expected it free: remove that route (`ip route del`), or choose another "
                    "Network"
                )
        return HostError(
            f"cannot add route {wanted.destination}: its place was taken and freed at once; "
            "expected it free: see which program changes routes with `ip monitor route`"
        )


def _place(route: KernelRoute) -> tuple[IPv4Network, int]:
    """Returns what the kernel keeps unique for our routes: destination and metric (TOS is 0)."""
    return (route.destination, route.metric)


def _as_route(route: KernelRoute) -> Route:
    return Route(
        destination=route.destination,
        kind="unreachable" if route.type == RTN_UNREACHABLE else "device",
        mtu_bytes=route.mtu_bytes,
        metric=route.metric,
    )
