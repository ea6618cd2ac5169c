"""What the kernel believes of the path to each peer, where that is less than the link's MTU.

Path of a lease: `backend` (adjacency) -> **`daemon.path_mtu`** (its MTU) -> `fib`.

The engine reports a datagram the underlay refused for its size; the kernel then knows the path's
MTU and is asked for it. It forgets what it learned after ten minutes
(`net.ipv4.route.mtu_expires`, `net.ipv6.route.mtu_expires`), so paths that were found narrow are
asked for again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from tunneld.backend.base import Adjacency, Family, Here, Reach
from tunneld.backend.families import MIN_MTU_BYTES
from tunneld.errors import HostError
from tunneld.host.path_mtu import path_mtu
from tunneld.lease.model import IPAddress, IPNetwork

RECHECK_S = 60.0

_log = logging.getLogger("tunneld.daemon")


class PathMtus:
    """Lowers the MTU of adjacencies whose path carries less than the link."""

    def __init__(self, *, here: Here, overhead_bytes: Callable[[Family], int]) -> None:
        self._here = here
        self._overhead_bytes = overhead_bytes
        self.on_change: Callable[[], None] = lambda: None
        """Called when a path has become wider or narrower."""
        self._narrow: dict[tuple[IPAddress, int], int] = {}
        """By endpoint and port, the largest packet that fits inside, however small."""

    def limit(self, reaches: Mapping[IPNetwork, Reach]) -> dict[IPNetwork, Reach]:
        """Returns the reaches, their adjacencies with the MTU of their paths."""
        return {prefix: self._limited(reach) for prefix, reach in reaches.items()}

    def refused(self, adjacency: Adjacency, path_mtu_bytes: int | None) -> None:
        """The underlay refused a datagram to this adjacency for its size.

        `path_mtu_bytes` is what the kernel told the socket that was refused.
        """
        if path_mtu_bytes is None:
            self._ask(adjacency.endpoint, adjacency.port)
        else:
            self._learn(adjacency.endpoint, adjacency.port, path_mtu_bytes)

    async def run(self) -> None:
        """Asks again, every `RECHECK_S`, for the paths that were narrow. Until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_S)
            for endpoint, port in list(self._narrow):
                self._ask(endpoint, port)

    def _limited(self, reach: Reach) -> Reach:
        adjacency = reach.adjacency
        if adjacency is None:
            return reach
        inner = self._narrow.get((adjacency.endpoint, adjacency.port), adjacency.mtu_bytes)
        # Nobody sends less than the least MTU of a link for being told to (RFC 8200 §5).
        inner = max(inner, MIN_MTU_BYTES[4 if adjacency.endpoint.version == 4 else 6])
        if inner >= adjacency.mtu_bytes:
            return reach
        return replace(reach, adjacency=replace(adjacency, mtu_bytes=inner))

    def _ask(self, endpoint: IPAddress, port: int) -> None:
        # What is inside a datagram is of the family it travels in.
        family: Family = 4 if endpoint.version == 4 else 6
        source = self._here.address if family == 4 else self._here.address_v6
        if source is None:
            return
        try:
            path_mtu_bytes = path_mtu(source, endpoint, port)
        except HostError as error:
            # No path at all right now: the last known size is as good as any.
            _log.debug("path MTU not known", extra={"fields": {"error": str(error)}})
            return
        self._learn(endpoint, port, path_mtu_bytes)

    def _learn(self, endpoint: IPAddress, port: int, path_mtu_bytes: int) -> None:
        family: Family = 4 if endpoint.version == 4 else 6
        inner = path_mtu_bytes - self._overhead_bytes(family)
        before = self._narrow.get((endpoint, port))
        if inner == before:
            return
        self._narrow[endpoint, port] = inner
        least = MIN_MTU_BYTES[family]
        fields: dict[str, str | int] = {"endpoint": str(endpoint), "mtu_bytes": inner}
        if inner < least:
            fields["detail"] = f"those of up to {least} bytes are sent all the same, and lost"
            _log.warning(
                "the path to a peer is too narrow for the smallest packets every host may send",
                extra={"fields": fields},
            )
        else:
            _log.info("path MTU of a peer changed", extra={"fields": fields})
        self.on_change()
