"""The network interfaces of this host, with their addresses, and the ways to name one of them.

Each way means one interface, or none, or is refused as ambiguous.

Source: flannel `pkg/ipmatch/match.go`, `pkg/ip/iface.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from tunneld.errors import HostError, InterfaceError
from tunneld.host.netlink import RTN_UNICAST, Address, Family, KernelRoute, Link, Netlink
from tunneld.lease.model import IPAddress

_MASTERS = frozenset({"bond", "bridge", "team"})
"""Kinds of devices whose ports have no addresses of their own. Those of a VRF have."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network device as a candidate for the underlay."""

    link: Link
    addresses: tuple[IPAddress, ...]
    """Of the families looked for; in each the best one first."""
    every: frozenset[IPAddress]
    """Of both families."""
    tentative: frozenset[IPAddress] = frozenset()
    """Those of which the kernel does not know yet whether another host has them too."""
    duplicate: frozenset[IPAddress] = frozenset()
    """Those which another host has."""
    port: str = ""
    """Name of the port that was meant, where this is the bridge or bond that has its address."""

    @property
    def name(self) -> str:
        return self.link.name


class NoMatchError(Exception):
    """This selector fits no interface; the next one is tried."""


async def list_interfaces(netlink: Netlink, families: Collection[Family]) -> list[Interface]:
    """Returns all interfaces, with their addresses of some families."""
    by_index: dict[int, list[Address]] = {}
    # The kernel lists IPv6 addresses youngest first; here the oldest counts, so that one that is
    # added moves nothing.
    for address in [*await netlink.addresses(4), *reversed(await netlink.addresses(6))]:
        by_index.setdefault(address.index, []).append(address)
    return [
        _interface(link, by_index.get(link.index, []), families) for link in await netlink.links()
    ]


def _interface(link: Link, held: list[Address], families: Collection[Family]) -> Interface:
    usual = sorted(
        (one for one in held if one.address.version in families and not _is_of_no_use(one.address)),
        key=lambda one: (one.address.version, one.address.is_link_local, not one.is_lasting),
    )
    return Interface(
        link=link,
        addresses=tuple(one.address for one in usual),
        every=frozenset(one.address for one in held),
        tentative=frozenset(one.address for one in held if one.is_tentative),
        duplicate=frozenset(one.address for one in held if one.is_duplicate),
    )


def _is_of_no_use(address: IPAddress) -> bool:
    return address.version == 6 and (address.is_link_local or address.is_loopback)


def by_name_or_address(
    text: str, interfaces: list[Interface]
) -> tuple[Interface, IPAddress | None]:
    """Returns the interface of that name or address, and the address if it was one.

    A name may be an alternative one, as udev gives them, or that of a port: see `_holder`.
    """
    try:
        address = ip_address(text)
    except ValueError:
        for interface in interfaces:
            if text in (interface.name, *interface.link.alternative_names):
                return _holder(interface, interfaces), None
        raise NoMatchError(f"no interface is called {text!r}") from None
    holders = [interface for interface in interfaces if address in interface.every]
    if not holders:
        raise NoMatchError(f"no interface has the address {address}")
    return _only(holders, f"address {address}", "give the name with --iface"), address


def by_regex(
    pattern: re.Pattern[str], interfaces: list[Interface], preferred: Collection[IPAddress] = ()
) -> tuple[Interface, IPAddress | None]:
    """Returns the interface that fits by an address, else by its name, and that address.

    Of the addresses that fit, one of `preferred` goes first.
    """
    what = f"regular expression {pattern.pattern!r}"
    interfaces = [interface for interface in interfaces if not interface.link.is_loopback]
    remedy = "make it match one, or give the name with --iface"

    def first_match(interface: Interface) -> IPAddress | None:
        fits = [ip for ip in interface.addresses if pattern.search(str(ip))]
        return min(fits, key=lambda ip: ip not in preferred, default=None)

    if by_address := [interface for interface in interfaces if first_match(interface)]:
        chosen = _only(by_address, what, remedy)
        return chosen, first_match(chosen)
    if by_name := [interface for interface in interfaces if pattern.search(interface.name)]:
        # Several ports of one bridge are one interface.
        holders = {one.link.index: one for one in (_holder(one, interfaces) for one in by_name)}
        return _only(list(holders.values()), what, remedy), None
    raise NoMatchError(f"no address and no name matches {pattern.pattern!r}")


def _holder(named: Interface, interfaces: Iterable[Interface]) -> Interface:
    """Returns the bridge or bond that has the address of the interface, where it has none itself.

    A port keeps its name when it is put into one, and its address moves there.
    """
    by_index = {one.link.index: one for one in interfaces}
    found = named
    while not found.addresses:
        master = by_index.get(found.link.master)
        if master is None or master.link.kind not in _MASTERS:
            return named
        found = master
    return found if found is named else replace(found, port=named.name)


async def by_destination(
    destination: IPAddress, interfaces: list[Interface], netlink: Netlink
) -> tuple[Interface, IPAddress | None]:
    """Returns the interface by which this host reaches an address, and its own there."""
    try:
        route = await netlink.route_to(destination)
    except HostError as error:
        raise NoMatchError(f"{destination} cannot be reached ({error.__cause__})") from error
    for interface in interfaces:
        if interface.link.index == route.oif:
            return interface, route.source
    raise NoMatchError(f"the route to {destination} leads to no interface")


def by_default_routes(
    routes: Mapping[Family, Iterable[KernelRoute]],
    interfaces: list[Interface],
    preferred: Iterable[Collection[IPAddress]] = (),
) -> Interface:
    """Returns the interface of the default route; families that have one must share it.

    One that holds all addresses of an item of `preferred` and has any default route, be it a
    weaker one, goes first: a VPN's better one moves nothing.
    """
    every = [route for listed in routes.values() for route in listed if _is_default(route)]
    for addresses in preferred:
        for interface in _of(every, interfaces):
            if interface.every.issuperset(addresses):
                return interface
    found: Interface | None = None
    for family, listed in routes.items():
        holders = _default_holders(listed, interfaces)
        if not holders:
            continue
        if found is None:
            what = f"IPv{family} default route" if len(routes) > 1 else "default route"
            found = _only(holders, what, "choose with --iface")
        elif found not in holders:
            raise InterfaceError(
                f"ambiguous underlay interface: the default routes of the families lead to "
                f"{listing([found, *holders])}; expected one interface for both: choose with "
                "--iface"
            )
    if found is None:
        raise InterfaceError(
            f"no underlay interface: there is no default route to take it from; there are "
            f"{listing(interfaces)}: choose with --iface"
        )
    return found


def _default_holders(routes: Iterable[KernelRoute], interfaces: list[Interface]) -> list[Interface]:
    defaults = [route for route in routes if _is_default(route)]
    best = min((route.metric for route in defaults), default=0)
    return _of([route for route in defaults if route.metric == best], interfaces)


def _is_default(route: KernelRoute) -> bool:
    return route.destination.prefixlen == 0 and route.type == RTN_UNICAST and route.tos == 0


def _of(routes: Iterable[KernelRoute], interfaces: Iterable[Interface]) -> list[Interface]:
    """Returns the interfaces that routes lead out of."""
    devices = {index for route in routes for index in (route.hops or (route.oif,))}
    return [interface for interface in interfaces if interface.link.index in devices]


def _only(candidates: list[Interface], what: str, remedy: str) -> Interface:
    if len(candidates) > 1:
        raise InterfaceError(
            f"ambiguous underlay interface: {what} fits {listing(candidates)}; expected one: "
            f"{remedy}"
        )
    return candidates[0]


def listing(interfaces: Iterable[Interface]) -> str:
    """Returns interfaces and their addresses for an error message."""
    shown: Callable[[Interface], str] = lambda one: (  # noqa: E731
        f"{one.name} ({', '.join(map(str, one.addresses)) or 'no address'})"
    )
    return ", ".join(map(shown, interfaces)) or "no interface at all"
