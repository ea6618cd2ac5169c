"""A network of simulated nodes under faults drawn by a seed, and what must hold at any moment."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from itertools import combinations
from unittest.mock import patch

from tests.sim.nodes import TTL_S, SimNode, share
from tests.support.memory_store import LAYOUT, Backup, MemoryServer
from tests.support.virtual_time import run_virtually
from tunneld.lease.model import Lease

NETWORKS = (
    '{"Network": "10.5.0.0/20"}',
    '{"Network": "10.5.0.0/20", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/60"}',
)
"""Of 16 subnets, so that chance brings hosts together; the second with a subnet of each family."""

SAMPLE_S = 0.25
BACK_S = 10.0
"""How long after a fault all nodes may take to have a lease again: a question takes 3 s, and a
refused attempt is made again after 1 s."""

Fault = Callable[["Network"], Awaitable[str]]


class Network:
    """The nodes, their store, and what was seen."""

    def __init__(self, seed: int, nodes: int = 6) -> None:
        self.rng = random.Random(seed)
        self.server = MemoryServer()
        self.server.put(LAYOUT.config, self.rng.choice(NETWORKS).encode())
        self.nodes = [SimNode(self.server, number, seed) for number in range(1, nodes + 1)]
        self.backups: list[Backup] = []
        self.told: list[str] = [f"seed {seed}"]
        """What was done, for whoever has to find out why."""
        self.slowest_s = 0.0
        self._suspects: set[str] = set()

    def node(self) -> SimNode:
        """Returns one of the nodes."""
        return self.rng.choice(self.nodes)

    async def run(self, faults: list[Fault], rounds: int) -> None:
        """Starts all nodes, and does to them what the seed says."""
        watching = asyncio.create_task(self._watch())
        try:
            for node in self.nodes:
                node.start()
            await self.settled()
            for _ in range(rounds):
                before, begin_s = {node.name: node.own for node in self.nodes}, self._now_s()
                fault = self.rng.choice(faults)
                self.told.append(f"{self._now_s():.3f} {fault.__name__}")
                done = await fault(self)
                self.told.append(f"{self._now_s():.3f} {done}")
                await self.settled()
                self._expect_kept(before, begin_s)
                # While nothing happens nothing changes, however long it lasts.
                leases = self.server.listing().leases
                await asyncio.sleep(self.rng.uniform(0.0, 3.0) * TTL_S)
                self._expect(self.server.listing().leases == leases, "a lease is not kept")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            for node in self.nodes:
                await node.kill()
        if not watching.cancelled():
            watching.result()

    async def settled(self) -> None:
        """Waits until every node has a lease of its own, and everybody knows."""
        begin_s = self._now_s()
        while why := self._unsettled():
            passed_s = self._now_s() - begin_s
            self._expect(passed_s < BACK_S, f"not settled after {passed_s:.1f} s: {why}")
            await asyncio.sleep(0.1)
        self.slowest_s = max(self.slowest_s, self._now_s() - begin_s)

    def _unsettled(self) -> str:
        listing = self.server.listing()
        for node in self.nodes:
            node.check()
            own, keeper = node.own, node.keeper
            if keeper is None or own is None or keeper.state != "held":
                return f"{node.name} has no lease: {keeper and keeper.problem}"
            if not node.is_current:
                return f"{node.name} has an old table"
            if own not in listing.leases:
                return f"{node.name} has {own.key}, which the store has not"
            if not any(r.node_id == keeper.node_id and r.describes(own) for r in listing.records):
                return f"{node.name} has no record"
            if keeper.problem is not None:
                return f"{node.name}: {keeper.problem}"
        if any(record.is_question for record in listing.records):
            return "a question stands"
        return ""

    def _expect_kept(self, before: dict[str, Lease | None], begin_s: float) -> None:
        """A host has another subnet only where somebody else has its former one.

        A host that has lost its disk knows it only by its lease, as long as that lasts.
        """
        is_long = self._now_s() - begin_s > TTL_S / 2
        for node in self.nodes:
            former, own = before[node.name], node.own
            if is_long and node.lost_disk_s is not None and node.lost_disk_s >= begin_s:
                continue
            if former is None or own is None or former.key == own.key:
                continue
            others = [lease for lease in self.server.listing().leases if lease.holder != own.holder]
            taken = [str(lease.key) for lease in others if share(lease, former)]
            self.told.append(f"{node.name}: {former.key} -> {own.key}, as of {taken}")
            self._expect(bool(taken), f"{node.name} has lost {former.key} to nobody")

    async def _watch(self) -> None:
        known: object = None
        while True:
            await asyncio.sleep(SAMPLE_S)
            sure = [
                (node.name, own) for node in self.nodes if node.is_current and (own := node.own)
            ]
            if not self._suspects and known == (self.server.revision, self.server.history, sure):
                continue
            known = (self.server.revision, self.server.history, sure)
            found = {*self._broken(sure)}
            for broken in found & self._suspects:
                self._expect(False, broken)
            self._suspects = found

    def _broken(self, sure: list[tuple[str, Lease]]) -> list[str]:
        """What is wrong at this moment; what still is at the next look is not on its way."""
        listing = self.server.listing()
        return [
            *(
                f"{a} and {b} both have {one.key}, with a current view"
                for (a, one), (b, other) in combinations(sure, 2)
                if share(one, other)
            ),
            *(
                f"{name} holds {own.key}, which the store says it has not, with a current view"
                for name, own in sure
                if not any((own.key, own.holder) == (it.key, it.holder) for it in listing.leases)
            ),
        ]

    def _expect(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise AssertionError("\n".join([what, *self.told]))

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def simulate(seed: int, faults: list[Fault], rounds: int) -> Network:
    """Returns a network that has been through faults; whatever is by chance comes from the seed.

    Raises:
        AssertionError: something did not hold; it tells what had been done.
    """
    network, ids = Network(seed), random.Random(seed)
    with patch.object(secrets, "token_hex", lambda size: ids.randbytes(size).hex()):
        run_virtually(network.run(faults, rounds))
    return network
