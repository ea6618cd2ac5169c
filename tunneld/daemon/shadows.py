"""Watches for what takes packets for peers away, and names it.

Path of a lease: `daemon.reconcile` (routes) -> **`daemon.shadows`** -> `daemon.report`. It changes
nothing: routes and addresses of others are theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from tunneld.errors import HostError
from tunneld.fib.state import Route
from tunneld.host.netlink import Netlink
from tunneld.host.shadows import Shadow, find_shadows, require_outside
from tunneld.lease.model import IPAddress, IPNetwork
from tunneld.log import Periodic

PACE_S = 1.0
"""Least time between two looks; a look at many peers is followed by a longer one."""
_REST = 20
"""How many times longer than a look lasted the next one is away."""

_log = logging.getLogger("tunneld.daemon")


class Shadows:
    """What takes packets for peers away, as it was at the last look."""

    def __init__(
        self,
        netlink: Netlink,
        *,
        networks: Collection[IPNetwork],
        own: Callable[[], Collection[IPNetwork]],
        peers: Callable[[], Mapping[IPNetwork, IPAddress | None]],
        routes: Callable[[], Awaitable[Collection[Route]]],
        devices: Collection[str],
    ) -> None:
        """The calls tell of the moment: own subnets, peers with underlay addresses, our routes."""
        self._netlink = netlink
        self._networks = tuple(networks)
        self._own = own
        self._peers = peers
        self._routes = routes
        self._devices = tuple(devices)
        self._wanted = asyncio.Event()
        self._found: tuple[Shadow, ...] = ()
        self._complaint = Periodic()

    def look_soon(self) -> None:
        """Says that routes, addresses or peers may have changed."""
        self._wanted.set()

    def problems(self) -> list[str]:
        """Returns a line for each thing that takes packets away."""
        return [str(shadow) for shadow in self._found]

    @property
    def hidden(self) -> frozenset[IPNetwork]:
        """Subnets of peers to which no packet gets."""
        return frozenset(peer for shadow in self._found for peer in shadow.whole)

    async def run(self) -> None:
        """Works until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            began_s = loop.time()
            try:
                await self.look()
            except HostError as error:
                if self._complaint.due(loop.time(), str(error)):
                    _log.warning(
                        "cannot see whether routes of others take packets for peers away",
                        extra={"fields": {"error": str(error)}},
                    )
            await asyncio.sleep(max(PACE_S, _REST * (loop.time() - began_s)))

    async def look(self) -> None:
        """Looks at the routes of all peers.

        Raises:
            HostError: the kernel cannot be asked.
        """
        routes = frozenset(route.destination for route in await self._routes())
        placed = routes & frozenset(self._networks)
        families = {network.version for network in placed}
        # Where the network has no route, a peer that has none of its own is not reached yet.
        peers = {
            net: address
            for net, address in self._peers().items()
            if net in routes or net.version in families
        }
        found = await find_shadows(
            self._netlink,
            networks=self._networks,
            own=self._own(),
            peers=peers,
            devices=self._devices,
        )
        before, self._found = {_name(one) for one in self._found}, found
        for shadow in found:
            if _name(shadow) not in before:
                _log.warning(
                    "packets for peers are taken away",
                    extra={"fields": {"detail": str(shadow)}},
                )
        for route, device in sorted(before - {_name(one) for one in found}):
            _log.info(
                "packets for peers are no longer taken away",
                extra={"fields": {"route": route, "device": device or "none"}},
            )


def _name(shadow: Shadow) -> tuple[str, str]:
    return str(shadow.route), shadow.device


async def require_store_outside(
    netlink: Netlink, networks: Collection[IPNetwork], urls: Iterable[str]
) -> None:
    """Returns where a store goes on to be reached once the overlay has its routes.

    Names are not looked up: their addresses change.

    Raises:
        InterfaceError: every store would be sought in the overlay itself.
    """
    addresses: list[IPAddress] = []
    for url in urls:
        try:
            addresses.append(ip_address(urlsplit(url).hostname or ""))
        except ValueError:
            return  # a name, or no URL at all: the store says so
    await require_outside(netlink, networks, "the store's address", addresses)
