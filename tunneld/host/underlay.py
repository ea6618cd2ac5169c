"""Finds the underlay interface and the address this host publishes.

The order is flannel's: each name or address, each regular expression, the way to a given
address, and without any of these the default route (or the interface that holds the given
public IP). An interface with several addresses gives the first one that is not link-local: of
IPv4 in the kernel's order (primary before secondary), of IPv6 by age, temporary and deprecated ones
last. A network of both families needs both on one interface.
Where flannel silently takes the first of several interfaces, this module refuses; a regular
expression never means the loopback interface; and a link-local IPv6 address, which means nothing
to another host, is none.

Source: flannel `main.go`, `pkg/ipmatch/match.go`, `pkg/ip/iface.go`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
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

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """Where sockets are bound, one address for each family of the network."""
        return tuple(one for one in (self.address, self.address_v6) if one is not None)


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
    interfaces = await list_interfaces(netlink, families)
    found: Interface
    wanted: IPAddress | None

    tried: list[str] = []
    for text in selection.interfaces:
        try:
            found, wanted = by_name_or_address(text, interfaces)
        except NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    for pattern in patterns:
        try:
            found, wanted = by_regex(pattern, interfaces)
        except NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    if selection.can_reach is not None:
        try:
            found, wanted = await by_destination(selection.can_reach, interfaces, netlink)
        except NoMatchError as error:
            tried.append(str(error))
        else:
            return _underlay(found, wanted, selection, families)
    if tried:
        raise InterfaceError(
            f"no underlay interface: {'; '.join(tried)}; there are {listing(interfaces)}: "
            "correct --iface, --iface-regex or --iface-can-reach"
        )

    public = selection.public_ip if 4 in families else selection.public_ipv6
    if public is not None:
        try:
            found, wanted = by_name_or_address(str(public), interfaces)
        except NoMatchError as error:
            raise InterfaceError(
                f"no underlay interface: {error} (the public IP); there are "
                f"{listing(interfaces)}: behind NAT, name the interface with --iface"
            ) from error
        return _underlay(found, wanted, selection, families)
    routes = {family: await netlink.default_routes(family) for family in sorted(families)}
    return _underlay(by_default_routes(routes, interfaces), None, selection, families)


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(
            f"--iface-regex {text!r} does not compile: {error}; expected a regular expression"
        ) from error


def _underlay(
    interface: Interface,
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
    )
