"""What the kernel believes of the path to each peer, where that is less than the link's MTU.

Path of a lease: `backend` (adjacency) -> **`daemon.path_mtu`** (its MTU) -> `fib`.

The engine reports a datagram the underlay refused for its size; the kernel then knows the path's
MTU and is asked for it. It forgets what it learned after ten minutes
(`net.ipv4.route.mtu_expires`), so paths that were found narrow are asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from tunneld.backend.base import Adjacency
from tunneld.errors import HostError
from tunneld.host.path_mtu import path_mtu

RECHECK_S = 60.0

_log = logging.getLogger("tunneld.daemon")


class PathMtus:
    """Lowers the MTU of adjacencies whose path carries less than the link."""

    def __init__(self, *, source: IPv4Address, overhead_bytes: int) -> None:
        self._source = source
        self._overhead_bytes = overhead_bytes
        self.on_change: Callable[[], None] = lambda: None
        """Called when a path has become wider or narrower."""
        self._narrow: dict[tuple[IPv4Address, int], int] = {}

    def limit(self, adjacencies: Mapping[IPv4Network, Adjacency]) -> dict[IPv4Network, Adjacency]:
        """Returns the adjacencies with the MTU of their paths."""
        return {
            prefix: replace(
                adjacency,
                mtu_bytes=min(
                    adjacency.mtu_bytes,
                    self._narrow.get((adjacency.endpoint, adjacency.port), adjacency.mtu_bytes),
                ),
            )
            for prefix, adjacency in adjacencies.items()
        }

    def refused(self, adjacency: Adjacency) -> None:
        """The underlay refused a datagram to this adjacency for its size."""
        self._ask(adjacency.endpoint, adjacency.port)

    async def run(self) -> None:
        """Asks again, every `RECHECK_S`, for the paths that were narrow. Until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            for endpoint, port in list(self._narrow):
                self._ask(endpoint, port)

    def _ask(self, endpoint: IPv4Address, port: int) -> None:
        try:
            inner = path_mtu(self._source, endpoint, port) - self._overhead_bytes
        except HostError as error:
            # No path at all right now: the last known size is as good as any.
            _log.debug("path MTU not known", extra={"fields": {"error": str(error)}})
            return
        before = self._narrow.get((endpoint, port))
        if inner == before:
            return
        self._narrow[endpoint, port] = inner
        _log.info(
            "path MTU of a peer changed",
            extra={"fields": {"endpoint": str(endpoint), "mtu_bytes": inner}},
        )
        self.on_change()
