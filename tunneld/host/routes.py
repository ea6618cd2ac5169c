"""Keeps our kernel routes: those marked with our protocol number, and no others.

Path of a lease: `host.actuator` -> **`host.routes`** -> the kernel's main table.

A route is ours when it carries `PROTOCOL` and leads out of a device of ours, or has a gateway or
answers `unreachable` inside our networks (so that the networks tell two daemons of one host
apart). A route of somebody else in the same place is never replaced.

Source: Linux rtnetlink(7); flannel `pkg/backend/udp/udp_network_amd64.go` (network route),
`pkg/backend/vxlan/vxlan_network.go` (onlink and direct routes), `pkg/backend/route_network.go`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Literal

from tunneld.errors import HostError
from tunneld.fib.state import Route
from tunneld.host.netlink import (
    DEFAULT_METRIC_V6,
    PROTOCOL_KERNEL,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    KernelRoute,
    Netlink,
)
from tunneld.lease.model import IPAddress, IPNetwork

PROTOCOL = 116
"""Routing protocol number of our routes: ASCII `t`, unassigned in iproute2's rt_protos."""

_Place = tuple[IPNetwork, int]
"""What the kernel keeps unique for our routes: destination and metric (TOS is 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """This host's own overlay addresses: preferred sources of what it sends to the overlay."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None

    def __iter__(self) -> Iterator[IPAddress]:
        return (address for address in (self.ipv4, self.ipv6) if address is not None)

    def of(self, network: IPNetwork) -> IPAddress | None:
        """Returns the address of the family of `network`."""
        return self.ipv4 if isinstance(network, IPv4Network) else self.ipv6


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """The devices our routes lead out of, by index, as they are at this moment."""

    overlay: int | None = None
    """The TUN device."""
    sources: Sources = field(default_factory=Sources)
    """Of the TUN device."""
    underlay: int | None = None
    vxlan: Mapping[str, int] = field(default_factory=dict)
    """Kernel vxlan devices of ours, by name."""


class Routes:
    """The routes of one daemon, in both families."""

    def __init__(self, netlink: Netlink, networks: Collection[IPNetwork]) -> None:
        self._netlink = netlink
        self._networks = tuple(networks)

    async def observe(self, exits: Exits) -> frozenset[Route]:
        """Returns our routes that are as they must be.

        One that is not, e.g. with another preferred source, is left out: it counts as missing and
        is put again.
        """
        whole = (_as_asked(route, exits) for route in await self._ours(exits))
        return frozenset(route for route in whole if route is not None)

    async def apply(self, exits: Exits, *, put: Iterable[Route], drop: Iterable[Route]) -> None:
        """Puts and removes routes; one that changes is replaced without a gap.

        Args:
            exits: where routes lead out.
            put: routes that must be there.
            drop: routes that must not be there, unless `put` holds one in the same place.

        Raises:
            HostError: a route of somebody else is in the way; the message names it. Or a device
                is not there. All other routes are as asked.
        """
        there = {family: await self._netlink.routes(family) for family in (4, 6)}
        ours = {
            _place(route): route
            for routes in there.values()
            for route in routes
            if self._is_ours(route, exits)
        }
        strange = {
            _place(route)
            for routes in there.values()
            for route in routes
            if not self._is_ours(route, exits)
        }
        kept = set()
        refusals = []
        for asked in sorted(put, key=_order):
            place = _place_asked(asked)
            kept.add(place)
            try:
                await self._put(asked, exits, ours.get(place), is_shared=place in strange)
            except HostError as error:
                refusals.append(str(error))
        gone = {_place_asked(route) for route in drop}
        for place, route in ours.items():
            # What nobody could have asked for is left over from a change cut short.
            if place not in kept and (place in gone or _as_asked(route, exits) is None):
                await self._netlink.remove_route(route)
        if refusals:
            first, *others = refusals
            raise HostError(f"{first}; {len(others)} more have failed" if others else first)

    async def _put(
        self, asked: Route, exits: Exits, current: KernelRoute | None, *, is_shared: bool
    ) -> None:
        """Puts a route, be it in place of `current`.

        `is_shared`: there is one of somebody else beside that.
        """
        wanted = _wanted(asked, exits)
        if current is not None and _plain(current) == wanted:
            return
        # Two routes in one place: a replacement would hit either of them.
        if current is not None and is_shared:
            raise await self._in_the_way(wanted, exits)
        for step in _steps(wanted):
            if current is not None:
                await self._netlink.replace_route(step)
            elif not await self._netlink.add_route(step):
                raise await self._in_the_way(wanted, exits)
            current = step

    async def change_source(self, index: int, sources: Sources) -> None:
        """Gives the routes to the TUN device a new preferred source.

        To be called while the old address is still there: the kernel removes the routes that
        prefer an IPv4 address together with it.
        """
        for route in await self._ours(Exits(overlay=index)):
            source = sources.of(route.destination)
            if route.oif == index and route.source != source:
                await self._netlink.replace_route(replace(route, source=source))

    async def clear(self, exits: Exits) -> None:
        """Removes all our routes."""
        for route in await self._ours(exits):
            await self._netlink.remove_route(route)

    async def _ours(self, exits: Exits) -> list[KernelRoute]:
        there = [*await self._netlink.routes(4), *await self._netlink.routes(6)]
        return [route for route in there if self._is_ours(route, exits)]

    def _is_ours(self, route: KernelRoute, exits: Exits) -> bool:
        if route.protocol != PROTOCOL:
            return False
        if route.type == RTN_UNREACHABLE or route.gateway is not None:
            inside = any(within(route.destination, network) for network in self._networks)
            return inside or route.oif in exits.vxlan.values()
        return route.type == RTN_UNICAST and route.oif is not None and route.oif == exits.overlay

    async def _in_the_way(self, wanted: KernelRoute, exits: Exits) -> HostError:
        names = {link.index: link.name for link in await self._netlink.links()}
        for route in await self._netlink.routes(wanted.destination.version):
            if _place(route) == _place(wanted) and not self._is_ours(route, exits):
                device = "" if route.oif is None else f" dev {names.get(route.oif, route.oif)}"
                via = "" if route.gateway is None else f" via {route.gateway}"
                # The kernel's own are those of addresses: without it a network is out of reach.
                remedy = "remove that route (`ip route del`), or choose another Network"
                if route.protocol == PROTOCOL_KERNEL:
                    remedy = "choose another Network, that one is in use here: see `ip address`"
                return HostError(
                    f"cannot add route {wanted.destination} metric {wanted.metric}: "
                    f"{route.destination}{via}{device} proto {route.protocol} is in its place; "
                    f"expected it free: {remedy}"
                )
        return HostError(
            f"cannot add route {wanted.destination}: its place was taken and freed at once; "
            "expected it free: see which program changes routes with `ip monitor route`"
        )


def _wanted(route: Route, exits: Exits) -> KernelRoute:
    """Returns the route as the kernel shows it when it is in order.

    Raises:
        HostError: the device it leads out of is not there.
    """
    is_ipv4 = route.destination.version == 4
    plain = KernelRoute(
        destination=route.destination,
        protocol=PROTOCOL,
        metric=route.metric if is_ipv4 else route.metric or DEFAULT_METRIC_V6,
        mtu_bytes=route.mtu_bytes,
    )
    match route.kind:
        case "unreachable":
            return replace(plain, type=RTN_UNREACHABLE)
        case "overlay":
            return replace(
                plain,
                oif=_there(exits.overlay, route),
                scope=SCOPE_LINK if is_ipv4 else SCOPE_UNIVERSE,
                source=exits.sources.of(route.destination),
            )
        case "gateway":
            return replace(plain, oif=_there(exits.underlay, route), gateway=route.gateway)
        case "onlink":
            index = exits.vxlan.get(route.device or "")
            return replace(plain, oif=_there(index, route), gateway=route.gateway, onlink=True)


def _steps(wanted: KernelRoute) -> tuple[KernelRoute, ...]:
    """Returns the routes to put in one place, one after the other.

    With IPv6 the kernel refuses an onlink gateway that a route out of another device covers, be it
    the very route to be replaced; but not where that route says `unreachable`.

    Source: Linux net/ipv6/route.c (ip6_route_check_nh_onlink).
    """
    if not wanted.onlink or wanted.destination.version == 4:
        return (wanted,)
    stop_gap = replace(wanted, type=RTN_UNREACHABLE, oif=None, gateway=None, onlink=False)
    return (stop_gap, wanted)


def _there(index: int | None, route: Route) -> int:
    if index is None:
        what = route.device or {"overlay": "TUN", "gateway": "underlay"}.get(route.kind)
        raise HostError(
            f"cannot add route {route.destination}: the {what} device it leads out of is gone; "
            "expected it while the daemon runs: see `ip link`"
        )
    return index


def _as_asked(route: KernelRoute, exits: Exits) -> Route | None:
    """Returns what was asked for when `route` is that, in order; None otherwise."""
    asked = Route(
        destination=route.destination,
        kind=_kind(route),
        gateway=route.gateway,
        device=next((n for n, i in exits.vxlan.items() if route.onlink and i == route.oif), None),
        mtu_bytes=route.mtu_bytes,
        metric=_place(route)[1],
    )
    try:
        is_whole = _wanted(asked, exits) == _plain(route)
    except HostError:
        return None
    return asked if is_whole else None


def _kind(route: KernelRoute) -> Literal["overlay", "unreachable", "gateway", "onlink"]:
    if route.type == RTN_UNREACHABLE:
        return "unreachable"
    if route.gateway is None:
        return "overlay"
    return "onlink" if route.onlink else "gateway"


def _plain(route: KernelRoute) -> KernelRoute:
    """Returns the route without the loopback device the kernel gives IPv6's `unreachable`."""
    return replace(route, oif=None) if route.type == RTN_UNREACHABLE else route


def _metric(network: IPNetwork, metric: int) -> int:
    """Returns a metric as a `Route` has it."""
    return 0 if network.version == 6 and metric == DEFAULT_METRIC_V6 else metric


def _place(route: KernelRoute) -> _Place:
    return (route.destination, _metric(route.destination, route.metric))


def _place_asked(route: Route) -> _Place:
    return (route.destination, _metric(route.destination, route.metric))


def _order(route: Route) -> tuple[int, IPNetwork, int]:
    return (route.destination.version, route.destination, route.metric)


def within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Says whether a prefix lies in another, of the same family."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return not isinstance(outer, IPv4Network) and inner.subnet_of(outer)
