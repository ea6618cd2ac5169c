"""Daemons without a host: the loops of lease and table of many nodes, on one store in memory."""

from __future__ import annotations

import asyncio
import random
from ipaddress import IPv4Address, IPv6Address

from tests.support.memory_store import PREFIX, MemoryServer, MemoryStore
from tunneld.daemon.cache import Remembered
from tunneld.daemon.membership import Membership
from tunneld.daemon.presence import be_present
from tunneld.daemon.together import together
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import Lease, LeaseAttributes, SubnetKey
from tunneld.lease.ranges import overlap

TTL_S = 600.0


class SimNode:
    """One host: what its disk holds outlives the process."""

    def __init__(self, server: MemoryServer, number: int, seed: int) -> None:
        self.name = f"node-{number}"
        self.attributes = LeaseAttributes(
            public_ip=IPv4Address("192.0.2.0") + number,
            public_ipv6=IPv6Address("fd99::") + number,
        )
        self.server = server
        self.ahead_s = 0.0
        """By how much its clock has jumped ahead."""
        self.lost_disk_s: float | None = None
        """When it lost what it knew of its network."""
        self.store: MemoryStore | None = None
        self.membership: Membership | None = None
        self.keeper: Keeper | None = None
        self._rng = random.Random(f"{seed}/{number}")
        self._node_id, self._machine = self.name, f"machine-{number}"
        self._renamed = 0
        self._remembered: Remembered | None = None
        self._last_own: Lease | None = None
        self._previous: SubnetKey | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._task is not None

    @property
    def is_current(self) -> bool:
        """Whether its view is the store's."""
        store, membership = self.store, self.membership
        if store is None or membership is None or store.is_cut_off or self.server.is_away:
            return False
        return membership.tracker.revision == self.server.revision

    @property
    def own(self) -> Lease | None:
        """The lease it goes by, unless it knows it for lost."""
        keeper = self.keeper
        return keeper.lease if keeper is not None and keeper.state != "lost" else None

    def start(self) -> None:
        """Starts the process."""
        loop = asyncio.get_running_loop()
        store = self.server.open()
        keeper = Keeper(
            store,
            node_id=self._node_id,
            machine=self._machine,
            new_node_id=self._new_node_id,
            version="0.1.0",
            ttl_s=TTL_S,
            renew_margin_s=60.0,
            rng=self._rng,
            clock=lambda: loop.time() + self.ahead_s,
        )
        membership = Membership(store, keeper, PREFIX)
        self.store, self.keeper, self.membership = store, keeper, membership
        if self._last_own is not None:
            membership.recall(self._last_own)
        self._task = asyncio.create_task(
            together(membership.follow(), be_present(membership, keeper), self._stay(membership))
        )

    async def kill(self, *, loses_disk: bool = False) -> None:
        """Ends the process, and with the disk all that the host knew of its network."""
        task, membership, keeper = self._task, self.membership, self.keeper
        if task is None or membership is None or keeper is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()
        own = keeper.lease
        if own is not None:
            left_s = keeper.left_s or 0.0
            self._remembered = (
                Remembered(table=membership.tracker.view, own=own, left_s=left_s)
                if left_s > 0
                else None
            )
            self._previous, self._last_own = own.key, own
        if loses_disk:
            self.lost_disk_s = asyncio.get_running_loop().time()
            self._remembered = self._previous = self._last_own = None
            self._node_id = self._new_node_id(True)
        self._task = self.store = self.membership = self.keeper = None

    def check(self) -> None:
        """Raises what has ended the process."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def _stay(self, membership: Membership) -> None:
        config = await membership.first_config(self._remembered)
        await membership.hold(config, self.attributes, self._previous)

    def _new_node_id(self, _is_copy: bool) -> str:
        self._renamed += 1
        self._node_id = f"{self.name}-{self._renamed}"
        return self._node_id


def share(one: Lease, other: Lease) -> bool:
    """Returns whether a subnet of one overlaps a subnet of the other."""
    return any(overlap(a, b) for a in one.key.subnets for b in other.key.subnets)
