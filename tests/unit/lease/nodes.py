"""A node for the keeper's tests: a store, its table followed, and a keeper."""

from __future__ import annotations

import asyncio
import random
import re
from types import TracebackType
from typing import Self

from tests.support.leases import holder, key
from tests.support.stores import until
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import Batch, Lease, LeaseAttributes
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ownership import Deleted, Held, Overwritten, Unrecorded
from tunneld.lease.registry import Store
from tunneld.lease.tracker import LeaseTracker


class Node:
    """Follows the store while the `async with` lasts."""

    def __init__(
        self,
        store: Store,
        public_ip: str,
        *,
        node_id: str | None = None,
        machine: str | None = None,
        ttl_s: float = 60.0,
        seed: int = 1,
    ) -> None:
        self.store = store
        self.public_ip = public_ip
        self.tracker = LeaseTracker()
        self.ahead_s = 0.0
        """By how much this host's clock has jumped ahead of the loop's timers."""
        self.renamed: list[bool] = []
        """For each new node id, whether what was remembered was another host's."""
        self.keeper = Keeper(
            self.store,
            node_id=node_id or f"node-{re.sub('[.:,]', '-', public_ip)}",
            machine=machine,
            new_node_id=self._new_node_id,
            version="0.1.0",
            ttl_s=ttl_s,
            renew_margin_s=3600.0,
            rng=random.Random(seed),
            clock=lambda: asyncio.get_running_loop().time() + self.ahead_s,
        )

    async def acquire(
        self, config: NetworkConfig, previous: str | None = None, *, public_ip: str | None = None
    ) -> Lease:
        self.public_ip = public_ip or self.public_ip
        host = holder(self.public_ip)
        return await self.keeper.acquire(
            self.tracker,
            config,
            LeaseAttributes(public_ip=host.public_ip, public_ipv6=host.public_ipv6),
            None if previous is None else key(previous),
        )

    async def verdict(self) -> Deleted | Overwritten | Unrecorded:
        """Waits until the table says that the lease is not held."""
        found: list[Deleted | Overwritten | Unrecorded] = []

        def is_lost() -> bool:
            verdict = self.keeper.observe(self.tracker)
            if not isinstance(verdict, Held):
                found.append(verdict)
            return bool(found)

        await until(is_lost)
        return found[0]

    async def sees(self, lease: Lease) -> None:
        """Waits until the table is as new as the lease."""
        await until(lambda: self.tracker.revision >= lease.mod_revision)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        await until(lambda: self.tracker.history > 0 or self._task.done())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.store.close()
        if not self._task.cancelled():
            self._task.result()

    def _new_node_id(self, is_copy: bool) -> str:
        self.renamed.append(is_copy)
        return f"{self.keeper.node_id}-{len(self.renamed)}-{re.sub('[.:,]', '-', self.public_ip)}"

    async def _follow(self) -> None:
        async for news in self.store.watch():
            if isinstance(news, Batch):
                self.tracker.apply(news)
            else:
                self.tracker.reset(news)
            await self.keeper.answer(self.tracker)
