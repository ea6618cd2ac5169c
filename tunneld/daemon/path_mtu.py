"""What the path to each peer carries, where that is less than the link's MTU.

Path of a lease: `backend` (adjacency) -> **`daemon.path_mtu`** (its MTU) -> `fib`.

Each peer in use is probed (`daemon.path_search`), by the engine: the packets are made there, and
the answers recognised there. What the kernel says when it refuses a datagram for its size is a hint
that holds until a probe has spoken. An MTU that the operator has given the route is kept to.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from tunneld.backend import esp
from tunneld.backend.base import Adjacency, Family
from tunneld.backend.families import MIN_MTU_BYTES
from tunneld.daemon.path_search import PathSearch, PathState
from tunneld.errors import EngineError, HostError
from tunneld.fib.plan import Path, PathMtu
from tunneld.lease.model import IPAddress, IPNetwork

LOOK_S: Final = 0.5
"""How often it is asked which peers are in use."""
TICK_S: Final = 0.02
"""How closely probes keep to their time."""
AGAIN_S: Final = (10.0, 600.0)
ROUNDS_PER_S: Final = 20.0
"""Every path in use is looked at again after this, the more of them the less often: so that there
are that many rounds a second at most."""
BEGINNINGS: Final = 50
"""Rounds that begin at one look: so many peers may have come into use at once."""
ROUTES_S: Final = 60.0
"""How often the routes that hold an MTU of the operator's are looked at again."""

_log = logging.getLogger("tunneld.daemon")


class Prober(Protocol):
    """What sends probes: the engine."""

    def probe(self, destination: IPAddress, size_bytes: int, token: int) -> int:
        """Sends one by every socket; returns how many answers to expect, 0: not sent."""
        ...

    def take_used(self) -> list[str]:
        """Returns the names of the adjacencies that were sent to since the last call."""
        ...


async def _no_route_mtu(_: IPAddress) -> int | None:
    return None


class PathMtus:
    """Finds the paths that carry less than the link."""

    def __init__(
        self,
        *,
        overhead_bytes: Callable[[Family], int],
        route_mtu: Callable[[IPAddress], Awaitable[int | None]] = _no_route_mtu,
    ) -> None:
        """`overhead_bytes`: of what the backend puts around a packet, by the family it travels in.

        `route_mtu` returns the MTU that the operator has given the route to an address. It raises
        HostError where there is no route.
        """
        self._overhead_bytes = overhead_bytes
        self._route_mtu = route_mtu
        self.on_change: Callable[[], None] = lambda: None
        """Called when a path has become wider or narrower."""
        self.prober: Prober | None = None
        """None: nothing can be sent yet, or is any more."""
        self._targets: dict[str, tuple[IPNetwork, Adjacency]] = {}
        """What is reached by the engine, by the name of its adjacency."""
        self._searches: dict[Path, PathSearch] = {}
        self._encapsulations: dict[Path, str] = {}
        """What each search is about: a peer that gets keys may keep its address and port."""
        self._capped: set[Path] = set()
        self._probed: dict[Path, IPAddress] = {}
        """Where the probes of the rounds under way go."""
        self._to_ask: set[Path] = set()
        self._wake = asyncio.Event()

    def follow(self, adjacencies: Mapping[IPNetwork, Adjacency]) -> bool:
        """Takes over who is reached by the engine, by adjacencies with the MTU of the link.

        Returns whether that, by another MTU of the link, changes what is `known` of their paths.
        """
        self._targets = {
            str(prefix): (prefix, adjacency) for prefix, adjacency in adjacencies.items()
        }
        links = {
            (adjacency.endpoint, adjacency.port): adjacency
            for _, adjacency in self._targets.values()
        }
        for path in list(self._searches):
            adjacency = links.get(path)
            if adjacency is None or adjacency.encapsulation != self._encapsulations[path]:
                self._forget(path)
        before = self.known()
        for path, search in self._searches.items():
            search.set_link(links[path].mtu_bytes)
        return self.known() != before

    def known(self) -> dict[Path, PathMtu]:
        """Returns what the paths carry that something is known of."""
        return {path: _holds(search) for path, search in self._searches.items()}

    def state_of(self, adjacency: Adjacency) -> PathState:
        """Returns what is known of the path to a peer."""
        search = self._searches.get((adjacency.endpoint, adjacency.port))
        return "unknown" if search is None else search.state

    def refused(self, name: str | None, path_mtu_bytes: int | None) -> None:
        """The underlay refused a datagram to the adjacency of that name for its size.

        `path_mtu_bytes` is what the kernel told the socket that was refused.
        """
        target = self._targets.get(name or "")
        if target is None or path_mtu_bytes is None:
            return
        path, search = self._search(*target)
        before = _holds(search)
        search.hint(path_mtu_bytes, time.monotonic())
        if search.is_probing:
            self._to_ask.add(path)
        self._after(path, search, before, "the kernel has heard so")

    def answered(self, token: int, socket: int) -> None:
        """A probe was answered."""
        for path in list(self._probed):
            search = self._searches[path]
            if token in search.tokens():
                before = _holds(search)
                search.answered(token, socket, time.monotonic())
                self._after(path, search, before, "found by probes")
                return

    async def run(self) -> None:
        """Probes the paths in use. Until cancelled."""
        look_s, routes_s = 0.0, time.monotonic() + ROUTES_S
        while True:
            now_s = time.monotonic()
            if now_s >= look_s:
                look_s = now_s + LOOK_S
                self._look(now_s)
            if now_s >= routes_s:
                routes_s = now_s + ROUTES_S
                self._to_ask |= self._capped
            await self._ask_routes()
            self._send(time.monotonic())
            dues = [self._searches[path].due_s or look_s for path in self._probed]
            wait_s = max(min([look_s, *dues]) - time.monotonic(), TICK_S)
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _look(self, now_s: float) -> None:
        """Begins rounds with peers that have come into use, or whose time has come again."""
        if self.prober is None:
            return
        used = self.prober.take_used()
        least_s, most_s = AGAIN_S
        interval_s = min(max(least_s, len(used) / ROUNDS_PER_S), most_s)
        begun = 0
        for name in used:
            target = self._targets.get(name)
            if target is None:
                continue
            path, search = self._search(*target)
            before = _holds(search)
            if search.use(now_s, interval_s):
                begun += 1
                self._probed[path] = target[0].network_address
            self._after(path, search, before, "the kernel's word has run out")
            if begun == BEGINNINGS:
                return

    def _send(self, now_s: float) -> None:
        for path, destination in list(self._probed.items()):
            search = self._searches[path]
            before = _holds(search)
            probes = search.due(now_s)
            for probe in probes:
                search.expects(self._probe(destination, probe.size_bytes, probe.token))
            self._after(path, search, before, "larger probes are lost, and no ICMP says so")

    def _probe(self, destination: IPAddress, size_bytes: int, token: int) -> int:
        if self.prober is None:
            return 0
        try:
            return self.prober.probe(destination, size_bytes, token)
        except EngineError as error:
            _log.debug("no probe sent", extra={"fields": {"error": str(error)}})
            return 0

    async def _ask_routes(self) -> None:
        """Learns which routes have an MTU of the operator's."""
        asked, self._to_ask = self._to_ask, set()
        for path in asked:
            try:
                mtu_bytes = await self._route_mtu(path[0])
            except HostError:
                mtu_bytes = None
            search = self._searches.get(path)
            if search is None:
                continue
            before = _holds(search)
            if mtu_bytes is None:
                self._capped.discard(path)
            else:
                self._capped.add(path)
            search.set_cap(mtu_bytes)
            self._after(path, search, before, "the route has an MTU")

    def _search(self, prefix: IPNetwork, adjacency: Adjacency) -> tuple[Path, PathSearch]:
        path = (adjacency.endpoint, adjacency.port)
        search = self._searches.get(path)
        if search is None:
            self._encapsulations[path] = adjacency.encapsulation
            search = self._searches[path] = PathSearch(
                link_bytes=adjacency.mtu_bytes,
                inner_bytes=self._inner_bytes(adjacency),
                draw=lambda: secrets.randbits(64),
            )
        return path, search

    def _inner_bytes(self, adjacency: Adjacency) -> Callable[[int], int]:
        outer: Family = 4 if adjacency.endpoint.version == 4 else 6
        if adjacency.encapsulation == esp.ENCAPSULATION:
            return lambda outer_bytes: esp.inner_bytes(outer_bytes, outer)
        overhead_bytes = self._overhead_bytes(outer)
        return lambda outer_bytes: outer_bytes - overhead_bytes

    def _forget(self, path: Path) -> None:
        del self._searches[path], self._encapsulations[path]
        self._probed.pop(path, None)
        self._capped.discard(path)
        self._to_ask.discard(path)

    def _after(self, path: Path, search: PathSearch, before: PathMtu, detail: str) -> None:
        """Tells of what has changed, and keeps the list of rounds."""
        if search.is_probing:
            if path not in self._probed:
                target = self._destination(path)
                if target is not None:
                    self._probed[path] = target
            self._wake.set()
        else:
            self._probed.pop(path, None)
        if _holds(search) == before:
            return
        if search.mtu_bytes != before.mtu_bytes:
            _tell(path[0], search.mtu_bytes, detail)
        self.on_change()

    def _destination(self, path: Path) -> IPAddress | None:
        """Returns the overlay address of the peer at the end of a path."""
        return next(
            (
                prefix.network_address
                for prefix, adjacency in self._targets.values()
                if (adjacency.endpoint, adjacency.port) == path
            ),
            None,
        )


def _tell(endpoint: IPAddress, mtu_bytes: int, detail: str) -> None:
    fields: dict[str, str | int] = {"endpoint": str(endpoint), "mtu_bytes": mtu_bytes}
    least = MIN_MTU_BYTES[4 if endpoint.version == 4 else 6]
    if mtu_bytes < least:
        fields["detail"] = (
            f"those of up to {least} bytes are sent all the same, in fragments where the kernel "
            "knows the path"
        )
        _log.warning(
            "the path to a peer is too narrow for the smallest packets every host may send",
            extra={"fields": fields},
        )
    else:
        fields["detail"] = detail
        _log.info("path MTU of a peer changed", extra={"fields": fields})


def _holds(search: PathSearch) -> PathMtu:
    return PathMtu(mtu_bytes=search.mtu_bytes, outer_df=search.outer_df)
