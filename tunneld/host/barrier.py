"""Keeps packets for the overlay from leaving in plain by another way: `unreachable` routes.

Beside the path of a lease: `daemon.node` -> **`host.barrier`** -> the kernel. Without a route of
ours such packets would leave by the default route, as they are. The overlay's own routes are
stronger, and so are those of bridges. Who puts it says when it goes: it may outlive the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection
from typing import Final, NoReturn

from tunneld.errors import HostError
from tunneld.host.monitor import Monitor, Notice
from tunneld.host.netlink import Netlink
from tunneld.host.netlink.model import RTN_UNREACHABLE, KernelRoute
from tunneld.host.remains import (
    Living,
    Presence,
    remove_barriers,
    remove_devices_and_routes,
)
from tunneld.host.routes import BARRIER_METRIC, PROTOCOL
from tunneld.lease.model import IPNetwork
from tunneld.log import Condition

LOOK_S: Final = 60.0
"""How often the routes are looked for, whether or not anything seems to have changed."""

CALM_S: Final = 0.2
"""Least time between two looks, where somebody takes them away again and again."""

_log = logging.getLogger("tunneld.host")


class Barrier:
    """Routes in the way of some networks; none at first."""

    def __init__(self, netlink: Netlink) -> None:
        self._netlink = netlink
        self._held: frozenset[IPNetwork] = frozenset()
        self._is_clear = False
        """Whether nothing is left of a daemon that was killed."""
        self._presence: Presence | None = None
        self._changed = asyncio.Event()
        self._lack = Condition(
            _log,
            "packets of the network are not kept back",
            "packets of the network are kept back again",
        )

    @property
    def networks(self) -> frozenset[IPNetwork]:
        """Those it is in the way of."""
        return self._held

    @property
    def problem(self) -> str | None:
        """What is not kept back, in one line; None: nothing."""
        return self._lack.problem

    async def keep(self) -> NoReturn:
        """Puts back what somebody takes away, for ever.

        Who manages a network takes away routes that he does not know (systemd-networkd), and the
        kernel those of IPv6 when that is switched off for a moment.

        Raises:
            HostError: the kernel cannot be watched.
        """
        monitor = Monitor(self._notice, firewall=False, routes_within=(), protocol=PROTOCOL)
        self._changed.set()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
                self._changed.clear()
                await self._put_back()
                await asyncio.sleep(CALM_S)
        finally:
            monitor.close()

    async def _put_back(self) -> None:
        for network in sorted(self._held, key=str):
            if network not in self._held:  # lifted meanwhile
                continue
            try:
                if await self._netlink.add_route(_route(network)):
                    _log.warning(
                        "put back what keeps packets of the network from leaving in plain",
                        extra={"fields": {"network": str(network)}},
                    )
            except HostError as error:
                self._lack.set(asyncio.get_running_loop().time(), str(error))
                return
        self._lack.clear()

    def _notice(self, notice: Notice) -> None:
        # IPv6 that is switched off takes its routes along without a word of them.
        if notice.kind in ("address", "link", "lost", "lost routes") or notice.protocol == PROTOCOL:
            self._changed.set()

    async def put(self, networks: Collection[IPNetwork]) -> None:
        """Lets no packet for these networks leave, by whatever a daemon that is gone has left too.

        Those of before stay: another network in the store must not open the way for this host's
        containers, whose addresses are of the one before.

        Raises:
            HostError: the kernel refuses one of them; the others are there.
        """
        new = frozenset(networks) - self._held
        if self._is_clear and not new:
            return
        self._held |= new
        failures = []
        for network in sorted(new, key=str):
            try:
                await self._netlink.replace_route(_route(network))
            except HostError as error:
                failures.append(str(error))
        if not self._is_clear:
            # Only now: what is taken away would else leave packets to the default route.
            await remove_devices_and_routes(self._netlink, keep=(), networks=())
            self._is_clear = True
        if new:
            self._tell_others()
        if failures:
            raise HostError("; ".join(failures))
        if new:
            _log.info(
                "no packet for the network leaves in plain by another way",
                extra={"fields": {"network": ", ".join(sorted(map(str, new)))}},
            )

    async def lift(self, networks: Collection[IPNetwork] = ()) -> None:
        """Takes the routes away, and those that a daemon before has left for `networks`.

        Raises:
            HostError: the kernel refuses.
        """
        held, self._held, self._is_clear = self._held, frozenset(), False
        self.close()
        await self._netlink.remove_routes(map(_route, held | frozenset(networks)))

    async def end(self) -> None:
        """Takes away these routes, and whatever daemons that are gone have left of the kind.

        Raises:
            HostError: the kernel refuses.
        """
        await self.lift()
        await remove_barriers(self._netlink)

    def close(self) -> None:
        """Leaves the routes as they are, for the next daemon of this host."""
        if self._presence is not None:
            self._presence.close()
            self._presence = None

    def _tell_others(self) -> None:
        """Has no other daemon of this host that leaves take the routes away."""
        # The new one first: at no time is there none.
        presence = Presence(
            Living(owner=f"barrier{os.getpid()}", devices=frozenset(), networks=self._held)
        )
        self.close()
        self._presence = presence


def _route(network: IPNetwork) -> KernelRoute:
    return KernelRoute(
        destination=network, type=RTN_UNREACHABLE, protocol=PROTOCOL, metric=BARRIER_METRIC
    )
