"""What daemons of ours that are gone have left on this host, whatever config they had.

Path of a lease: `daemon.datapath`, `daemon.tenure` -> **`host.remains`** -> the kernel.

A daemon that lives holds an abstract Unix socket in its network namespace, which the kernel closes
with it: the name says what its things are called after, and its networks. What has a mark of ours
and belongs to no such name is left over: vxlan devices by their alias, routes by their protocol
number, tables and chains by their names.

Source: Linux unix(7) (abstract sockets belong to a network namespace), proc(5) (/proc/net/unix).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from tunneld.errors import HostError
from tunneld.host.firewall import HostFirewall, owners_in_force
from tunneld.host.netlink import Netlink
from tunneld.host.netlink.model import KernelRoute
from tunneld.host.routes import BARRIER_METRIC, PROTOCOL, within
from tunneld.host.vxlan import OWN_ALIAS
from tunneld.lease.model import IPNetwork

_PREFIX = "tunneld:"
_UNIX = Path("/proc/thread-self/net/unix")

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Living:
    """A daemon that runs in this network namespace."""

    owner: str
    """What its tables and chains are called after."""
    devices: frozenset[str]
    networks: frozenset[IPNetwork]


class Presence:
    """Says to other daemons of this host, as long as it is open, that this one lives."""

    def __init__(self, me: Living) -> None:
        """Raises HostError where the kernel refuses the socket.

        Another daemon with the very same things is none of this room's business.
        """
        words = [me.owner, *sorted(me.devices), *sorted(map(str, me.networks))]
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(b"\0" + f"{_PREFIX}{','.join(words)}"[:100].encode())
        except OSError as error:
            self._socket.close()
            if not isinstance(error, PermissionError) and error.errno != errno.EADDRINUSE:
                raise HostError(
                    f"cannot bind an abstract Unix socket: {error.strerror}; expected one, by "
                    "which the daemons of a host know each other"
                ) from error

    def close(self) -> None:
        """Says so no longer."""
        self._socket.close()


def living() -> tuple[Living, ...]:
    """Returns the daemons that run in this network namespace.

    Raises:
        HostError: /proc cannot be read.
    """
    try:
        text = _UNIX.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise HostError(f"cannot read {_UNIX}: {error.strerror}; expected /proc") from error
    found = []
    for line in text.splitlines():
        _, is_ours, name = line.partition(f"@{_PREFIX}")
        if is_ours:
            owner, *words = name.rstrip("@").split(",")
            networks = [word for word in words if "/" in word]
            found.append(
                Living(
                    owner=owner,
                    devices=frozenset(words) - frozenset(networks),
                    networks=frozenset(filter(None, map(_network, networks))),
                )
            )
    return tuple(found)


async def remove_devices_and_routes(
    netlink: Netlink,
    *,
    keep: Collection[str],
    networks: Collection[IPNetwork],
) -> None:
    """Removes vxlan devices and routes of ours that belong to no daemon that lives.

    What `host.barrier` has left stays: it is to outlive its daemon.

    Args:
        netlink: an open socket.
        keep: names of devices that are about to be taken over.
        networks: where routes are about to be taken over.

    Raises:
        HostError: the kernel refuses.
    """
    others = await asyncio.to_thread(living)
    kept = {*keep, *(name for one in others for name in one.devices)}
    nets = [*networks, *(net for one in others for net in one.networks)]
    removed = []
    indices = set()
    for link in await netlink.links():
        if link.name in kept:
            indices.add(link.index)
        elif link.kind == "vxlan" and link.alias == OWN_ALIAS:
            await netlink.remove_link(link.index)
            removed.append(f"device {link.name}")
    routes = [
        route
        for route in await _routes(netlink)
        if route.oif not in indices
        and not any(within(route.destination, net) for net in nets)
        and route.metric != BARRIER_METRIC
    ]
    await netlink.remove_routes(routes)
    if routes:
        removed.append(f"{len(routes)} routes, {routes[0].destination} first")
    _tell(removed)


async def remove_barriers(netlink: Netlink) -> None:
    """Removes the routes of `host.barrier` that belong to no daemon that lives.

    Raises:
        HostError: the kernel refuses.
    """
    nets = [net for one in await asyncio.to_thread(living) for net in one.networks]
    await netlink.remove_routes(
        route
        for route in await _routes(netlink)
        if route.metric == BARRIER_METRIC
        and not any(within(route.destination, net) for net in nets)
    )


async def _routes(netlink: Netlink) -> list[KernelRoute]:
    return [
        *await netlink.routes(4, protocol=PROTOCOL),
        *await netlink.routes(6, protocol=PROTOCOL),
    ]


async def remove_rules(own: str) -> None:
    """Removes tables and chains of ours that belong to no daemon that lives, nor to `own`.

    Raises:
        HostError: nft or iptables refuses.
    """
    others = {one.owner for one in await asyncio.to_thread(living)}
    removed = []
    for owner in sorted(await owners_in_force() - others - {own}):
        await HostFirewall(owner).clear()
        removed.append(f"firewall rules of {owner}")
    _tell(removed)


def _tell(removed: list[str]) -> None:
    if removed:
        _log.warning(
            "removed what a daemon that is gone had left behind",
            extra={"fields": {"detail": ", ".join(removed)}},
        )


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text)
    except ValueError:  # cut short: a name holds 107 bytes
        return None
