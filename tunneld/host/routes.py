"""Keeps our kernel routes: those marked with our protocol number, and no others.

Path of a lease: `host.actuator` -> **`host.routes`** -> the kernel's main table.

A route is ours when it carries `PROTOCOL` and leads out of a device of ours, or has a gateway or
answers `unreachable` inside our networks (so that the networks tell two daemons of one host
apart). A route of somebody else in the same place is never replaced.

Source: Linux rtnetlink(7); flannel `pkg/backend/udp/udp_network_amd64.go` (network route),
`pkg/backend/vxlan/vxlan_network.go` (onlink and direct routes), `pkg/backend/route_network.go`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Literal, NoReturn

from tunneld.errors import HostError, PeerRouteError
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
    refused,
)
from tunneld.lease.model import IPAddress, IPNetwork

PROTOCOL = 116
"""Routing protocol number of our routes: ASCII `t`, unassigned in iproute2's rt_protos."""

BARRIER_METRIC = 2**31 + 1
"""Of the routes of `host.barrier`, which no data path takes for its own."""

_BREATH = 500
"""Routes looked at before others get their turn on the loop."""

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
        whole = set()
        for count, route in enumerate(await self._ours(exits), 1):
            if (asked := _as_asked(route, exits)) is not None:
                whole.add(asked)
            if count % _BREATH == 0:
                await asyncio.sleep(0)
        return frozenset(whole)

    async def apply(self, exits: Exits, *, put: Iterable[Route], drop: Iterable[Route]) -> None:
        """Puts and removes routes; one that changes is replaced without a gap.

        Args:
            exits: where routes lead out.
            put: routes that must be there.
            drop: routes that must not be there, unless `put` holds one in the same place.

        Raises:
            PeerRouteError: routes to peers are not there: one of somebody else is in the way, or a
                device is gone; the message names it. All other routes are as asked.
            HostError: the same of a route without which the overlay does not work.
        """
        ours = {_place(route): route for route in await self._ours(exits)}
        refusals: dict[Route, str] = {}
        due: list[tuple[Route, KernelRoute]] = []
        kept = set()
        for asked in sorted(put, key=_order):
            kept.add(_place_asked(asked))
            try:
                wanted = _wanted(asked, exits)
            except HostError as error:
                refusals[asked] = str(error)
                continue
            current = ours.get(_place_asked(asked))
            if current is None or _plain(current) != wanted:
                due.append((asked, wanted))
        refusals |= await self._put(due, ours, exits)
        gone = {_place_asked(route) for route in drop}
        # What nobody could have asked for is left over from a change cut short.
        await self._netlink.remove_routes(
            route
            for place, route in ours.items()
            if place not in kept and (place in gone or _as_asked(route, exits) is None)
        )
        if refusals:
            self._refuse(refusals)

    def _refuse(self, refusals: Mapping[Route, str]) -> NoReturn:
        first, *others = (refusals[route] for route in sorted(refusals, key=_order))
        text = f"{first}; {len(others)} more have failed" if others else first
        if any(self._is_basic(route) for route in refusals):
            raise HostError(text)
        raise PeerRouteError(text)

    def _is_basic(self, route: Route) -> bool:
        """Says whether a route serves all peers."""
        return route.kind == "unreachable" or (
            route.kind == "overlay" and route.destination in self._networks
        )

    async def _put(
        self,
        due: Collection[tuple[Route, KernelRoute]],
        ours: Mapping[_Place, KernelRoute],
        exits: Exits,
    ) -> dict[Route, str]:
        """Puts routes, be it in place of `ours`; returns why each that is refused is."""
        replaced = [asked for asked, _ in due if _place_asked(asked) in ours]
        strange = await self._strange({asked.destination for asked in replaced}, exits)
        steps: list[tuple[KernelRoute, bool]] = []
        whose: list[Route] = []
        blocked = set()
        for asked, wanted in due:
            place = _place_asked(asked)
            there = place in ours
            # Two routes in one place: a replacement would hit either of them.
            if there and place in strange:
                blocked.add(asked)
                continue
            for step in _steps(wanted):
                steps.append((step, there))
                whose.append(asked)
                there = True
        refusals: dict[Route, str] = {}
        for asked, (step, _), code in zip(
            whose, steps, await self._netlink.put_routes(steps), strict=True
        ):
            if asked in blocked or code == errno.EEXIST:
                blocked.add(asked)
            elif code:
                refusals.setdefault(asked, str(refused(f"add route {step.destination}", code)))
        if blocked:
            refusals |= await self._in_the_way(blocked, exits)
        return refusals

    async def _strange(
        self, destinations: Collection[IPNetwork], exits: Exits
    ) -> dict[_Place, KernelRoute]:
        """Returns routes of others to these destinations."""
        if not destinations:
            return {}
        found = await self._netlink.routes_to(frozenset(destinations))
        return {_place(route): route for route in found if not self._is_ours(route, exits)}

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
        await self._netlink.remove_routes(await self._ours(exits))

    async def _ours(self, exits: Exits) -> list[KernelRoute]:
        there = [
            *await self._netlink.routes(4, protocol=PROTOCOL),
            *await self._netlink.routes(6, protocol=PROTOCOL),
        ]
        return [route for route in there if self._is_ours(route, exits)]

    def _is_ours(self, route: KernelRoute, exits: Exits) -> bool:
        if route.protocol != PROTOCOL or route.metric == BARRIER_METRIC:
            return False
        if route.type == RTN_UNREACHABLE or route.gateway is not None:
            inside = any(within(route.destination, network) for network in self._networks)
            return inside or route.oif in exits.vxlan.values()
        return route.type == RTN_UNICAST and route.oif is not None and route.oif == exits.overlay

    async def _in_the_way(self, refused: Collection[Route], exits: Exits) -> dict[Route, str]:
        """Returns for each route in whose place another is what that is, and what to do."""
        names = {link.index: link.name for link in await self._netlink.links()}
        strange = await self._strange({route.destination for route in refused}, exits)
        said = {}
        for asked in refused:
            route = strange.get(_place_asked(asked))
            if route is None:
                said[asked] = (
                    f"cannot add route {asked.destination}: its place was taken and freed at "
                    "once; expected it free: see which program changes routes with `ip monitor "
                    "route`"
                )
                continue
            device = "" if route.oif is None else f" dev {names.get(route.oif, route.oif)}"
            via = "" if route.gateway is None else f" via {route.gateway}"
            # The kernel's own are those of addresses: without it a network is out of reach.
            remedy = "remove that route (`ip route del`), or choose another Network"
            if route.protocol == PROTOCOL_KERNEL:
                remedy = "choose another Network, that one is in use here: see `ip address`"
            said[asked] = (
                f"cannot add route {route.destination} metric {route.metric}: "
                f"{route.destination}{via}{device} proto {route.protocol} is in its place; "
                f"expected it free: {remedy}"
            )
        return said


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
