"""Keeps packets for the overlay on this host while they may not travel: `unreachable` routes.

Beside the path of a lease: `daemon.node` -> **`host.barrier`** -> the kernel. Without a route of
ours such packets would leave by the default route, as they are. Own containers are reached all the
same: the routes of their bridges are narrower.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from tunneld.fib.compose import UNREACHABLE_METRIC
from tunneld.host.netlink import Netlink
from tunneld.host.netlink.model import RTN_UNREACHABLE, KernelRoute
from tunneld.host.remains import Living, Presence, remove_devices_and_routes
from tunneld.host.routes import PROTOCOL
from tunneld.lease.model import IPNetwork

_log = logging.getLogger("tunneld.host")


class Barrier:
    """Routes in the way of some networks; none at first."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._held: frozenset[IPNetwork] = frozenset()
        self._is_clear = False
        """Whether nothing is left of a daemon that was killed."""
        self._presence: Presence | None = None

    async def put(self, networks: Collection[IPNetwork]) -> None:
        """Lets no packet for these networks leave, by whatever a daemon that is gone has left too.

        Those of before stay: another network in the store must not open the way for this host's
        containers, whose addresses are of the one before.

        Raises:
            HostError: the kernel refuses.
        """
        new = frozenset(networks) - self._held
        if self._is_clear and not new:
            return
        for network in new:
            await self._netlink.replace_route(_route(network))
        self._held |= new
        if not self._is_clear:
            # Only now: what is taken away would else leave packets to the default route.
            await remove_devices_and_routes(
                self._netlink, keep=(), networks=(), barriers=frozenset(map(_route, self._held))
            )
            self._is_clear = True
        if new:
            self._tell_others()
            _log.warning(
                "packets for the network are kept back",
                extra={"fields": {"network": ", ".join(sorted(map(str, new)))}},
            )

    async def lift(self) -> None:
        """Takes the routes away.

        Raises:
            HostError: the kernel refuses.
        """
        held, self._held, self._is_clear = self._held, frozenset(), False
        if self._presence is not None:
            self._presence.close()
            self._presence = None
        await self._netlink.remove_routes(map(_route, held))

    def _tell_others(self) -> None:
        """Has no other daemon of this host take the routes for left over."""
        # The new one first: at no time is there none.
        presence = Presence(
            Living(owner=f"barrier{os.getpid()}", devices=frozenset(), networks=self._held)
        )
        if self._presence is not None:
            self._presence.close()
        self._presence = presence


def _route(network: IPNetwork) -> KernelRoute:
    return KernelRoute(
        destination=network, type=RTN_UNREACHABLE, protocol=PROTOCOL, metric=UNREACHABLE_METRIC
    )
