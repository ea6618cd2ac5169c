"""Finds the underlay interface and the address this host publishes.

The order is flannel's: each name or address, each regular expression, the way to a given
address, and without any of these the default route (or the interface that holds the given
public IP). An interface with several addresses gives the first one that is not link-local: of
IPv4 in the kernel's order (primary before secondary), of IPv6 by age, temporary and deprecated ones
last; those in use before go first. A network of both families needs both on one interface.
Where flannel silently takes the first of several interfaces, this module refuses; a regular
expression never means the loopback interface; and a link-local IPv6 address, which means nothing
to another host, is none.

Source: flannel `main.go`, `pkg/ipmatch/match.go`, `pkg/ip/iface.go`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from tunneld.errors import InterfaceError, UsageError
from tunneld.host.interfaces import (
    Interface,
    NoMatchError,
    by_default_routes,
    by_destination,
    by_name_or_address,
    by_regex,
    list_interfaces,
    listing,
)
from tunneld.host.netlink import Family, Netlink
from tunneld.host.way_out import mtu_bytes_out_of
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
    is_tentative: bool = False
    """Whether the kernel still asks if another host has `address_v6` (duplicate address detection,
    RFC 4862 §5.4); nothing can be bound to it before."""
    port: str = ""
    """Name of the port that the operator meant, where this is its bridge or bond."""

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Where sockets are bound, one address for each family of the network."""
        return tuple(one for one in (self.address, self.address_v6) if one is not None)

    def is_same(self, other: Underlay) -> bool:
        """Returns whether what is bound to one serves the other: its device and its addresses."""
        return (self.index, self.addresses, self.public_ip, self.public_ipv6) == (
            (other.index, other.addresses, other.public_ip, other.public_ipv6)
        )


async def find_underlay(
    selection: Selection, netlink: Netlink, families: Collection[Family] = IPV4_ONLY
) -> Underlay:
    """Returns the interface that `selection` means, as `choose_underlay` does.

    Raises:
        InterfaceError: no interface fits, or several do; the message names them.
        UsageError: a regular expression does not compile.
    """
    return await choose_underlay(
        selection, await list_interfaces(netlink, families), netlink, families
    )


async def choose_underlay(
    selection: Selection,
    interfaces: list[Interface],
    netlink: Netlink,
    families: Collection[Family],
    preferred: Sequence[tuple[IPAddress, ...]] = (),
) -> Underlay:
    """Returns which of `interfaces` `selection` means.

    Args:
        selection: what the operator has said.
        interfaces: all there are.
        netlink: who is asked for routes.
        families: those in which the interface must have an address; of others it has none.
        preferred: addresses in use before, the most wanted first; each item is one underlay's.
            They decide where the selection leaves a choice.

    Raises:
        InterfaceError: no interface fits, or several do; the message names them.
        UsageError: a regular expression does not compile.
    """
    found, wanted = await _choose(selection, interfaces, netlink, families, preferred)
    first = next((one for one in preferred if found.every.issuperset(one)), ())
    taken = _underlay(found, (*((wanted,) if wanted else ()), *first), selection, families)
    mtu_bytes = await mtu_bytes_out_of(found, taken.addresses, interfaces, netlink)
    return replace(taken, mtu_bytes=mtu_bytes)


async def held_underlay(
    underlay: Underlay, interfaces: list[Interface], netlink: Netlink
) -> Underlay | None:
    """Returns an underlay as it is now; None: its interface or one of its addresses is gone.

    Name and MTU may be others than before.
    """
    for interface in interfaces:
        if interface.link.index == underlay.index:
            break
    else:
        return None
    gone = not interface.every.issuperset(underlay.addresses)
    if gone or underlay.address_v6 in interface.duplicate or interface.link.mtu_bytes == 0:
        return None
    return replace(
        underlay,
        name=interface.name,
        mtu_bytes=await mtu_bytes_out_of(interface, underlay.addresses, interfaces, netlink),
        is_tentative=underlay.address_v6 in interface.tentative,
    )


async def _choose(
    selection: Selection,
    interfaces: list[Interface],
    netlink: Netlink,
    families: Collection[Family],
    preferred: Sequence[tuple[IPAddress, ...]],
) -> tuple[Interface, IPAddress | None]:
    """Returns the interface, and the address where the selection means one."""
    patterns = [_compile(text) for text in selection.regexes]
    any_preferred = [address for one in preferred for address in one]
    tried: list[str] = []
    for text in selection.interfaces:
        try:
            return by_name_or_address(text, interfaces)
        except NoMatchError as error:
            tried.append(str(error))
    for pattern in patterns:
        try:
            return by_regex(pattern, interfaces, any_preferred)
        except NoMatchError as error:
            tried.append(str(error))
    if selection.can_reach is not None:
        try:
            found, source = await by_destination(selection.can_reach, interfaces, netlink)
        except NoMatchError as error:
            tried.append(str(error))
        else:
            is_known = any(found.every.issuperset(one) for one in preferred)
            return found, None if is_known else source
    if tried:
        raise InterfaceError(
            f"no underlay interface: {'; '.join(tried)}; there are {listing(interfaces)}: "
            "correct --iface, --iface-regex or --iface-can-reach"
        )

    public = selection.public_ip if 4 in families else selection.public_ipv6
    if public is not None:
        try:
            return by_name_or_address(str(public), interfaces)
        except NoMatchError as error:
            raise InterfaceError(
                f"no underlay interface: {error} (the public IP); there are "
                f"{listing(interfaces)}: behind NAT, name the interface with --iface"
            ) from error
    routes = {family: await netlink.default_routes(family) for family in sorted(families)}
    return by_default_routes(routes, interfaces, preferred), None


def check_patterns(selection: Selection) -> None:
    """Raises UsageError for a regular expression that does not compile."""
    for text in selection.regexes:
        _compile(text)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--iface-regex {text!r} does not compile: {error}; expected a regular expression"
        ) from error


def _underlay(
    interface: Interface,
    first: Collection[IPAddress],
    selection: Selection,
    families: Collection[Family],
) -> Underlay:
    """Returns the interface as an underlay; `first` go before all its other addresses."""
    link = interface.link
    candidates = [
        *(ip for ip in first if ip.version in families),
        *(ip for ip in interface.addresses if not ip.is_loopback),
    ]
    ipv4 = next((ip for ip in candidates if isinstance(ip, IPv4Address)), None)
    ipv6 = next((ip for ip in candidates if isinstance(ip, IPv6Address)), None)
    for family, address, name in ((4, ipv4, "IPv4"), (6, ipv6, "global IPv6")):
        if family in families and address is None:
            raise InterfaceError(
                f"underlay interface {link.name} has no {name} address; expected one that other "
                "hosts reach: configure it, or choose another with --iface"
            )
    if ipv6 in interface.duplicate:
        raise InterfaceError(
            f"underlay interface {link.name} has IPv6 address {ipv6}, but so has another host on "
            "the link; expected one of its own: give one of the two hosts another"
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
        is_tentative=ipv6 in interface.tentative,
        port=interface.port,
    )
