"""The store on an etcd cluster: one listing, one watch, and writes that happen whole or not at all.

Path of a lease: etcd -> `store.etcd.client` -> **store.etcd.store** -> `lease.tracker`.
Bridges outages: a watch resumes after the last change it has seen, and starts over with a new
listing when etcd has compacted that revision, was wiped, or was restored from a backup.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

from tunneld.errors import (
    GrantLostError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from tunneld.lease.model import Batch, Lease, Snapshot
from tunneld.lease.registry import Claim, Grant, StoreStatus
from tunneld.store import transaction
from tunneld.store.etcd.client import CompactedError, EtcdClient, Moment
from tunneld.store.etcd.transport import Transport
from tunneld.store.health import Health
from tunneld.store.layout import Layout

log = logging.getLogger("tunneld.store")

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0
_PARALLEL_CALLS = 64


class EtcdStore:
    """A `lease.registry.Store` in etcd."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        self._layout = Layout(prefix)
        self._transport = transport
        self._client = EtcdClient(transport)
        self._health = Health("etcd", str(transport.endpoint))

    def status(self) -> StoreStatus:
        """Returns whether the last call or the watch found an answer."""
        return self._health.status()

    async def read(self) -> Snapshot:
        """Lists everything at one revision."""
        return (await self._read())[1]

    async def watch(self) -> AsyncGenerator[Snapshot | Batch, None]:
        """Yields a snapshot, then every change after it, whatever happens to the connection."""
        position: Moment | None = None
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                if position is None:
                    position, snapshot = await self._read()
                    yield snapshot
                async with aclosing(self._follow(position)) as steps:
                    async for reached, batch in steps:
                        position = reached
                        backoff_s = _FIRST_BACKOFF_S
                        if batch is not None and batch.events:
                            yield batch
            except CompactedError as error:
                self._start_over(str(error))
                position = None
            except StoreError as error:
                self._health.failed(str(self._transport.endpoint), str(error))
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LAST_BACKOFF_S)

    async def write_config(self, text: str) -> int:
        """Writes the network config; returns the revision."""
        revision = await self._call(self._client.put(self._layout.config, text.encode()))
        self._answered(revision)
        return revision

    async def grant(self, ttl_s: float) -> Grant:
        """Returns a new grant of at least `ttl_s`, in whole seconds."""
        grant_id, granted_s = await self._call(self._client.grant(ttl_s))
        return Grant(grant_id=grant_id, ttl_s=granted_s)

    async def keep_alive(self, grant: Grant) -> Grant:
        """Gives the grant its full time again. Raises GrantLostError when it has run out."""
        ttl_s = await self._call(self._client.keep_alive(grant.grant_id))
        if not ttl_s:
            raise GrantLostError(f"grant {grant.grant_id:x} is unknown to etcd: its time ran out")
        return Grant(grant_id=grant.grant_id, ttl_s=ttl_s)

    async def claim(self, claim: Claim) -> Lease:
        """Writes a lease and its record. Raises SubnetTakenError when somebody was faster."""
        wanted = transaction.claim(self._layout, claim)
        outcome = await self._call(self._client.transact(wanted))
        return transaction.claimed(self._layout, claim, outcome)

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        """Deletes a lease and the node's record; False when it was written since."""
        wanted = transaction.withdraw(self._layout, lease, node_id)
        return transaction.withdrawn(await self._call(self._client.transact(wanted)))

    async def remaining(self, grant_ids: Sequence[int]) -> dict[int, float]:
        """Returns the seconds left of each grant that is known."""
        wanted = list(dict.fromkeys(grant_id for grant_id in grant_ids if grant_id))
        left: dict[int, float] = {}
        for start in range(0, len(wanted), _PARALLEL_CALLS):
            part = wanted[start : start + _PARALLEL_CALLS]
            answers = await asyncio.gather(
                *(self._call(self._client.time_to_live(grant_id)) for grant_id in part)
            )
            left |= {
                grant_id: left_s
                for grant_id, left_s in zip(part, answers, strict=True)
                if left_s is not None
            }
        return left

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def _read(self) -> tuple[Moment, Snapshot]:
        while True:
            try:
                moment, entries = await self._call(self._client.list(self._layout.root))
            except CompactedError:
                # Between two pages; the next listing is of a younger revision.
                continue
            self._answered(moment.revision)
            return moment, self._layout.snapshot(entries, moment.revision)

    async def _follow(self, position: Moment) -> AsyncGenerator[tuple[Moment, Batch | None], None]:
        """Yields each new position with what led there.

        Raises:
            CompactedError: `position` cannot be continued.
        """
        async with aclosing(
            self._client.watch(self._layout.root, position.revision + 1)
        ) as messages:
            async for news in messages:
                if not news.moment.follows(position):
                    raise CompactedError("etcd's history does not continue ours")
                self._answered(news.moment.revision)
                batch = None
                revision = position.revision
                if news.changes:
                    revision = news.changes[-1].revision
                    batch = self._layout.batch(news.changes, revision)
                position = Moment(news.moment.cluster_id, news.moment.raft_term, revision)
                yield position, batch

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except (StoreUnavailableError, StoreRefusedError) as error:
            self._health.failed(str(self._transport.endpoint), str(error))
            raise
        self._answered()
        return result

    def _answered(self, revision: int = 0) -> None:
        self._health.answered(str(self._transport.endpoint), revision)

    def _start_over(self, detail: str) -> None:
        fields = {"endpoint": str(self._transport.endpoint), "detail": detail}
        log.info("listing the store anew", extra={"fields": fields})
