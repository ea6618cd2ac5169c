"""Finds the underlay interface and the address this host publishes.

The order is flannel's: each name or address, each regular expression, the way to a given
address, and without any of these the default route (or the interface that holds the given
public IP). An interface with several IPv4 addresses gives its first one that is not
link-local, in the kernel's order (primary before secondary). Where flannel silently takes the
first of several interfaces, this module refuses; and a regular expression never means the
loopback interface.

Source: flannel `main.go`, `pkg/ipmatch/match.go`, `pkg/ip/iface.go`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from tunneld.errors import HostError, InterfaceError, UsageError
from tunneld.host.netlink import RTN_UNICAST, Address, Family, KernelRoute, Link, Netlink
from tunneld.lease.model import IPAddress

IPV4_ONLY: frozenset[Family] = frozenset({4})

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How the operator names the underlay interface; all empty: by the default route."""

    interfaces: tuple[str, ...] = ()
    """`--iface`: names or addresses, the first that fits counts."""
    regexes: tuple[str, ...] = ()
    """`--iface-regex`: searched for in each address, then in each name."""
    can_reach: IPAddress | None = None
    """`--iface-can-reach`: the interface by which the host reaches this address."""
    public_ip: IPv4Address | None = None
    """`--public-ip`: published in place of the interface's address."""
    public_ipv6: IPv6Address | None = None
    """`--public-ipv6`: the same for IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    """The interface that carries the datagrams."""

    name: str
    index: int
    address: IPv4Address | None
    """Where the socket is bound; None: the network has no IPv4."""
    public_ip: IPv4Address | None
    """What the lease says; differs from `address` behind NAT."""
    address_v6: IPv6Address | None = None
    """The same for IPv6; None: the network has none."""
    public_ipv6: IPv6Address | None = None
    mtu_bytes: int

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Where sockets are bound, one address for each family of the network."""
        return tuple(one for one in (self.address, self.address_v6) if one is not None)


@dataclass(frozen=True, slots=True)
class _Interface:
    link: Link
    addresses: tuple[IPAddress, ...]
    """Of the families looked for; in each the best one first."""
    every: frozenset[IPAddress]
    """Of both families."""

    @property
    def name(self) -> str:
        return self.link.name


class _NoMatchError(Exception):
    """This selector fits no interface; the next one is tried."""


async def find_underlay(
    selection: Selection, netlink: Netlink, families: Collection[Family] = IPV4_ONLY
) -> Underlay:
    """Returns the interface that `selection` means, as it is at this moment.

    `families` are those in which the interface must have an address; of others it has none.

    Raises:
        InterfaceError: no interface fits, or several do; the message names them.
        UsageError: a regular expression does not compile.
    """
    patterns = [_compile(text) for text in selection.regexes]
    addresses = [*await netlink.addresses(4), *await netlink.addresses(6)]
    interfaces = _interfaces(await netlink.links(), addresses, families)
    found: _Interface
    wanted: IPAddress | None

    tried: list[str] = []
    for text in selection.interfaces:
        try:
            found, wanted = _by_name_or_address(text, interfaces)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    for pattern in patterns:
        try:
            found, wanted = _by_regex(pattern, interfaces)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    if selection.can_reach is not None:
        try:
            found, wanted = await _by_destination(selection.can_reach, interfaces, netlink)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    if tried:
        raise InterfaceError(
            f"no underlay interface: {'; '.join(tried)}; there is {_listing(interfaces)}: "
            "correct --iface, --iface-regex or --iface-can-reach"
        )

    public = selection.public_ip if 4 in families else selection.public_ipv6
    if public is not None:
        try:
            found, wanted = _by_name_or_address(str(public), interfaces)
        except _NoMatchError as error:
            raise InterfaceError(
                f"no underlay interface: {error} (the public IP); there is "
                f"{_listing(interfaces)}: behind NAT, name the interface with --iface"
            ) from error
        return _underlay(found, wanted, selection, families)
    routes = {family: await netlink.routes(family) for family in sorted(families)}
    return _underlay(_by_default_routes(routes, interfaces), None, selection, families)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--iface-regex {text!r} does not compile: {error}; expected a regular expression"
        ) from error


def _interfaces(
    links: Iterable[Link], addresses: Iterable[Address], families: Collection[Family]
) -> list[_Interface]:
    by_index: dict[int, list[Address]] = {}
    for address in addresses:
        by_index.setdefault(address.index, []).append(address)
    return [_interface(link, by_index.get(link.index, []), families) for link in links]


def _interface(link: Link, held: list[Address], families: Collection[Family]) -> _Interface:
    usual = sorted(
        (one for one in held if one.address.version in families and not _is_of_no_use(one.address)),
        key=lambda one: (one.address.version, one.address.is_link_local, not one.is_usable),
    )
    return _Interface(
        link=link,
        addresses=tuple(one.address for one in usual),
        every=frozenset(one.address for one in held),
    )


def _is_of_no_use(address: IPAddress) -> bool:
    return address.version == 6 and (address.is_link_local or address.is_loopback)


def _by_name_or_address(
    text: str, interfaces: list[_Interface]
) -> tuple[_Interface, IPAddress | None]:
    try:
        address = ip_address(text)
    except ValueError:
        for interface in interfaces:
            if interface.name == text:
                return interface, None
        raise _NoMatchError(f"no interface is called {text!r}") from None
    holders = [interface for interface in interfaces if address in interface.every]
    if not holders:
        raise _NoMatchError(f"no interface has the address {address}")
    return _only(holders, f"address {address}", "give the name with --iface"), address


def _by_regex(
    pattern: re.Pattern[str], interfaces: list[_Interface]
) -> tuple[_Interface, IPAddress | None]:
    what = f"regular expression {pattern.pattern!r}"
    interfaces = [interface for interface in interfaces if not interface.link.is_loopback]
    remedy = "make it match one, or give the name with --iface"

    def first_match(interface: _Interface) -> IPAddress | None:
        return next((ip for ip in interface.addresses if pattern.search(str(ip))), None)

    if by_address := [interface for interface in interfaces if first_match(interface)]:
        chosen = _only(by_address, what, remedy)
        return chosen, first_match(chosen)
    if by_name := [interface for interface in interfaces if pattern.search(interface.name)]:
        return _only(by_name, what, remedy), None
    raise _NoMatchError(f"no address and no name matches {pattern.pattern!r}")


async def _by_destination(
    destination: IPAddress, interfaces: list[_Interface], netlink: Netlink
) -> tuple[_Interface, IPAddress | None]:
    try:
        route = await netlink.route_to(destination)
    except HostError as error:
        raise _NoMatchError(f"{destination} cannot be reached ({error.__cause__})") from error
    for interface in interfaces:
        if interface.link.index == route.oif:
            return interface, route.source
    raise _NoMatchError(f"the route to {destination} leads to no interface")


def _by_default_routes(
    routes: Mapping[Family, Iterable[KernelRoute]], interfaces: list[_Interface]
) -> _Interface:
    """Returns the interface of the default route; families that have one must share it."""
    found: _Interface | None = None
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
                f"{_listing([found, *holders])}; expected one interface for both: choose with "
                "--iface"
            )
    if found is None:
        raise InterfaceError(
            f"no underlay interface: there is no default route to take it from; there is "
            f"{_listing(interfaces)}: choose with --iface"
        )
    return found


def _default_holders(
    routes: Iterable[KernelRoute], interfaces: list[_Interface]
) -> list[_Interface]:
    defaults = [
        route
        for route in routes
        if route.destination.prefixlen == 0 and route.type == RTN_UNICAST and route.tos == 0
    ]
    best = min((route.metric for route in defaults), default=0)
    devices = {
        index
        for route in defaults
        if route.metric == best
        for index in (route.hops or (route.oif,))
    }
    return [interface for interface in interfaces if interface.link.index in devices]


def _only(candidates: list[_Interface], what: str, remedy: str) -> _Interface:
    if len(candidates) > 1:
        raise InterfaceError(
            f"ambiguous underlay interface: {what} fits {_listing(candidates)}; expected one: "
            f"{remedy}"
        )
    return candidates[0]


def _underlay(
    interface: _Interface,
    wanted: IPAddress | None,
    selection: Selection,
    families: Collection[Family],
) -> Underlay:
    link = interface.link
    candidates = [ip for ip in interface.addresses if not ip.is_loopback]
    if wanted is not None and wanted.version in families:
        candidates.insert(0, wanted)
    ipv4 = next((ip for ip in candidates if isinstance(ip, IPv4Address)), None)
    ipv6 = next((ip for ip in candidates if isinstance(ip, IPv6Address)), None)
    for family, address, name in ((4, ipv4, "IPv4"), (6, ipv6, "global IPv6")):
        if family in families and address is None:
            raise InterfaceError(
                f"underlay interface {link.name} has no {name} address; expected one that other "
                "hosts reach: configure it, or choose another with --iface"
            )
    if link.mtu_bytes == 0:
        raise InterfaceError(
            f"underlay interface {link.name} has MTU 0; expected at least 68 bytes: set it, or "
            "choose another with --iface"
        )
    others = [str(ip) for ip in candidates if ip not in (ipv4, ipv6)]
    if others:
        _log.debug(
            "the underlay interface has more addresses",
            extra={
                "fields": {
                    "interface": link.name,
                    "address": ", ".join(str(ip) for ip in (ipv4, ipv6) if ip is not None),
                    "detail": f"not taken: {', '.join(others)}",
                }
            },
        )
    return Underlay(
        name=link.name,
        index=link.index,
        address=ipv4,
        public_ip=None if ipv4 is None else selection.public_ip or ipv4,
        address_v6=ipv6,
        public_ipv6=None if ipv6 is None else selection.public_ipv6 or ipv6,
        mtu_bytes=link.mtu_bytes,
    )


def _listing(interfaces: Iterable[_Interface]) -> str:
    shown: Callable[[_Interface], str] = lambda one: (  # noqa: E731
        f"{one.name} ({', '.join(map(str, one.addresses)) or 'no address'})"
    )
    return ", ".join(map(shown, interfaces)) or "no interface at all"
