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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from tunneld.errors import HostError, InterfaceError, UsageError
from tunneld.host.netlink import RTN_UNICAST, Address, KernelRoute, Link, Netlink

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How the operator names the underlay interface; all empty: by the default route."""

    interfaces: tuple[str, ...] = ()
    """`--iface`: names or IPv4 addresses, the first that fits counts."""
    regexes: tuple[str, ...] = ()
    """`--iface-regex`: searched for in each address, then in each name."""
    can_reach: IPv4Address | None = None
    """`--iface-can-reach`: the interface by which the host reaches this address."""
    public_ip: IPv4Address | None = None
    """`--public-ip`: published in place of the interface's address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Underlay:
    """The interface that carries the datagrams."""

    name: str
    index: int
    address: IPv4Address
    """Where the socket is bound."""
    public_ip: IPv4Address
    """What the lease says; differs from `address` behind NAT."""
    mtu_bytes: int


@dataclass(frozen=True, slots=True)
class _Interface:
    link: Link
    addresses: tuple[IPv4Address, ...]
    """Global ones first, then link-local ones, each in the kernel's order."""

    @property
    def name(self) -> str:
        return self.link.name


class _NoMatchError(Exception):
    """This selector fits no interface; the next one is tried."""


async def find_underlay(selection: Selection, netlink: Netlink) -> Underlay:
    """Returns the interface that `selection` means, as it is at this moment.

    Raises:
        InterfaceError: no interface fits, or several do; the message names them.
        UsageError: a regular expression does not compile.
    """
    patterns = [_compile(text) for text in selection.regexes]
    interfaces = _interfaces(await netlink.links(), await netlink.addresses())
    found: _Interface
    wanted: IPv4Address | None

    tried: list[str] = []
    for text in selection.interfaces:
        try:
            found, wanted = _by_name_or_address(text, interfaces)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection)
    for pattern in patterns:
        try:
            found, wanted = _by_regex(pattern, interfaces)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection)
    if selection.can_reach is not None:
        try:
            found, wanted = await _by_destination(selection.can_reach, interfaces, netlink)
        except _NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection)
    if tried:
        raise InterfaceError(
            f"no underlay interface: {'; '.join(tried)}; there is {_listing(interfaces)}: "
            "correct --iface, --iface-regex or --iface-can-reach"
        )

    if selection.public_ip is not None:
        try:
            found, wanted = _by_name_or_address(str(selection.public_ip), interfaces)
        except _NoMatchError as error:
            raise InterfaceError(
                f"no underlay interface: {error} (the public IP); there is "
                f"{_listing(interfaces)}: behind NAT, name the interface with --iface"
            ) from error
        return _underlay(found, wanted, selection)
    found = _by_default_route(await netlink.routes(), interfaces)
    return _underlay(found, None, selection)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--iface-regex {text!r} does not compile: {error}; expected a regular expression"
        ) from error


def _interfaces(links: Iterable[Link], addresses: Iterable[Address]) -> list[_Interface]:
    by_index: dict[int, list[IPv4Address]] = {}
    for address in addresses:
        by_index.setdefault(address.index, []).append(address.address)
    return [
        _Interface(
            link=link,
            addresses=tuple(
                sorted(by_index.get(link.index, []), key=lambda address: address.is_link_local)
            ),
        )
        for link in links
    ]


def _by_name_or_address(
    text: str, interfaces: list[_Interface]
) -> tuple[_Interface, IPv4Address | None]:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        for interface in interfaces:
            if interface.name == text:
                return interface, None
        raise _NoMatchError(f"no interface is called {text!r}") from None
    holders = [interface for interface in interfaces if address in interface.addresses]
    if not holders:
        raise _NoMatchError(f"no interface has the address {address}")
    return _only(holders, f"address {address}", "give the name with --iface"), address


def _by_regex(
    pattern: re.Pattern[str], interfaces: list[_Interface]
) -> tuple[_Interface, IPv4Address | None]:
    what = f"regular expression {pattern.pattern!r}"
    interfaces = [interface for interface in interfaces if not interface.link.is_loopback]
    remedy = "make it match one, or give the name with --iface"

    def first_match(interface: _Interface) -> IPv4Address | None:
        return next((ip for ip in interface.addresses if pattern.search(str(ip))), None)

    if by_address := [interface for interface in interfaces if first_match(interface)]:
        chosen = _only(by_address, what, remedy)
        return chosen, first_match(chosen)
    if by_name := [interface for interface in interfaces if pattern.search(interface.name)]:
        return _only(by_name, what, remedy), None
    raise _NoMatchError(f"no address and no name matches {pattern.pattern!r}")


async def _by_destination(
    destination: IPv4Address, interfaces: list[_Interface], netlink: Netlink
) -> tuple[_Interface, IPv4Address | None]:
    try:
        route = await netlink.route_to(destination)
    except HostError as error:
        raise _NoMatchError(f"{destination} cannot be reached ({error.__cause__})") from error
    for interface in interfaces:
        if interface.link.index == route.oif:
            return interface, route.source
    raise _NoMatchError(f"the route to {destination} leads to no interface")


def _by_default_route(routes: Iterable[KernelRoute], interfaces: list[_Interface]) -> _Interface:
    defaults = [
        route
        for route in routes
        if route.destination.prefixlen == 0 and route.type == RTN_UNICAST and route.tos == 0
    ]
    if not defaults:
        raise InterfaceError(
            f"no underlay interface: there is no default route to take it from; there is "
            f"{_listing(interfaces)}: choose with --iface"
        )
    best = min(route.metric for route in defaults)
    devices = {
        index
        for route in defaults
        if route.metric == best
        for index in (route.hops or (route.oif,))
    }
    holders = [interface for interface in interfaces if interface.link.index in devices]
    if not holders:
        raise InterfaceError(
            "no underlay interface: the default route leads to no interface; there is "
            f"{_listing(interfaces)}: choose with --iface"
        )
    return _only(holders, "default route", "choose with --iface")


def _only(candidates: list[_Interface], what: str, remedy: str) -> _Interface:
    if len(candidates) > 1:
        raise InterfaceError(
            f"ambiguous underlay interface: {what} fits {_listing(candidates)}; expected one: "
            f"{remedy}"
        )
    return candidates[0]


def _underlay(interface: _Interface, address: IPv4Address | None, selection: Selection) -> Underlay:
    link = interface.link
    address = address or next((ip for ip in interface.addresses if not ip.is_loopback), None)
    if address is None:
        raise InterfaceError(
            f"underlay interface {link.name} has no IPv4 address; expected one that other hosts "
            "reach: configure it, or choose another with --iface"
        )
    if link.mtu_bytes == 0:
        raise InterfaceError(
            f"underlay interface {link.name} has MTU 0; expected at least 68 bytes: set it, or "
            "choose another with --iface"
        )
    others = [str(ip) for ip in interface.addresses if ip != address and not ip.is_loopback]
    if others:
        _log.debug(
            "the underlay interface has more addresses",
            extra={
                "fields": {
                    "interface": link.name,
                    "address": str(address),
                    "detail": f"not taken: {', '.join(others)}",
                }
            },
        )
    return Underlay(
        name=link.name,
        index=link.index,
        address=address,
        public_ip=selection.public_ip or address,
        mtu_bytes=link.mtu_bytes,
    )


def _listing(interfaces: Iterable[_Interface]) -> str:
    shown: Callable[[_Interface], str] = lambda one: (  # noqa: E731
        f"{one.name} ({', '.join(map(str, one.addresses)) or 'no IPv4 address'})"
    )
    return ", ".join(map(shown, interfaces)) or "no interface at all"
