"""The store on an etcd cluster: one listing, one watch, and writes that happen whole or not at all.

Path of a lease: etcd -> `store.etcd.client` -> **store.etcd.store** -> `lease.tracker`.
Bridges outages: a watch resumes after the last change it has seen, and starts over with a new
listing when etcd has compacted that revision, was wiped, or was restored from a backup.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from tunneld.errors import (
    GrantLostError,
    StoreDeniedError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from tunneld.lease.model import (
    Batch,
    Lease,
    NodeRecord,
    Reservation,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.registry import Claim, Grant, StoreStatus
from tunneld.log import Periodic
from tunneld.store import transaction
from tunneld.store.etcd.client import CompactedError, EtcdClient
from tunneld.store.etcd.history import View
from tunneld.store.etcd.transport import EndedInOrderError, Transport
from tunneld.store.health import Health
from tunneld.store.layout import Layout

log = logging.getLogger("tunneld.store")

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 2.0
_PARALLEL_CALLS = 64

COMPARISON_INTERVAL_S = 60.0


def _comparison_interval_s(entries: int) -> float:
    """Returns how long a watch is silent before the store is asked: not all hosts at once.

    etcd sorts all entries for it, so the more there are, the less often each host asks.
    """
    return COMPARISON_INTERVAL_S * max(1.0, entries / 1_000) * random.uniform(0.75, 1.25)  # noqa: S311


class EtcdStore:
    """A `lease.registry.Store` in etcd."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        self._layout = Layout(prefix)
        self._transport = transport
        self._client = EtcdClient(transport)
        self._health = Health("etcd", str(transport.endpoint))
        self._cluster_id = 0
        self._restarts = Periodic()

    def status(self) -> StoreStatus:
        """Returns whether the last call or the watch found an answer."""
        cluster = f"{self._cluster_id:x}" if self._cluster_id else None
        return replace(self._health.status(), cluster=cluster)

    async def read(self) -> Snapshot:
        """Lists everything at one revision."""
        return (await self._read())[1]

    async def watch(self) -> AsyncGenerator[Snapshot | Batch, None]:
        """Yields a snapshot, then every change after it, whatever happens to the connection."""
        view: View | None = None
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                if view is None:
                    view, snapshot = await self._read()
                    yield snapshot
                else:
                    await self._compare(view)
                async with aclosing(self._follow(view)) as batches:
                    async for batch in batches:
                        backoff_s = _FIRST_BACKOFF_S
                        if batch is not None and batch.events:
                            yield batch
            except CompactedError as error:
                self._start_over(str(error))
                view = None
            except EndedInOrderError:
                # A server that restarts, rests a connection, or wants fewer pings.
                if backoff_s == _FIRST_BACKOFF_S:
                    backoff_s *= 2
                    continue
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

    async def write_record(self, record: NodeRecord, grant: Grant) -> None:
        """Writes a node record alone. Raises GrantLostError when the grant has run out."""
        wanted = transaction.record(self._layout, record, grant)
        await self._call(self._client.transact(wanted))

    async def drop_record(self, node_id: str) -> None:
        """Deletes a node record, if it is there."""
        await self._call(self._client.transact(transaction.no_record(self._layout, node_id)))

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        """Deletes a lease and the node's record; False when it was written since."""
        wanted = transaction.withdraw(self._layout, lease, node_id)
        return transaction.withdrawn(await self._call(self._client.transact(wanted)))

    async def reserve(self, wanted: Reservation, *, lease_revision: int) -> None:
        """Writes a reservation, if the subnet's lease is as it was seen."""
        order = transaction.reserve(self._layout, wanted, lease_revision)
        transaction.reserved(wanted, await self._call(self._client.transact(order)))

    async def release(self, key: SubnetKey, lasting: Lease | None, grant: Grant | None) -> bool:
        """Deletes a reservation; False when its lasting lease was written since."""
        order = transaction.release(self._layout, key, lasting, grant)
        return transaction.released(await self._call(self._client.transact(order)), grant)

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

    def reconnect(self) -> None:
        """Gives up all connections: calls under way and the watch go on over new ones."""
        self._transport.reconnect()

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def _read(self) -> tuple[View, Snapshot]:
        while True:
            try:
                listing = await self._call(self._client.list(self._layout.root))
            except CompactedError:
                # Between two pages; the next listing is of a younger revision.
                continue
            place = listing.place
            self._answered(place.revision)
            self._cluster_id = place.cluster_id
            snapshot = self._layout.snapshot(listing.entries, place.revision)
            return View(place, listing.entries), snapshot

    async def _compare(self, view: View) -> None:
        """Returns if the store holds what is in `view`, or held it at that revision.

        Raises:
            CompactedError: it did not: it was wiped or restored since, or cannot say any more.
        """
        expected = view.sample()
        place, found = await self._call(self._client.sample(self._layout.root))
        if not place.may_follow(view.place):
            raise CompactedError("etcd was wiped or restored")
        if found == expected:
            # So the watch needs no older one, which may soon be compacted.
            view.place = place
            return
        # What happened meanwhile is still to come; what was known must have been so.
        _, found = await self._call(self._client.sample(self._layout.root, view.revision))
        if found != expected:
            raise CompactedError("what etcd holds does not continue what it held")

    async def _follow(self, view: View) -> AsyncGenerator[Batch | None, None]:
        """Yields what changes, and None for a sign of life; keeps `view` up to date.

        While nothing changes it compares now and then: who is between us and etcd may have gone
        over to another history without ending the watch.

        Raises:
            CompactedError: `view` cannot be continued.
        """
        start = view.revision + 1
        async with aclosing(self._client.watch(self._layout.root, start)) as messages:
            coming = asyncio.ensure_future(anext(messages))
            try:
                while True:
                    await asyncio.wait({coming}, timeout=_comparison_interval_s(view.size))
                    if not coming.done():
                        await self._compare(view)
                        yield None
                        continue
                    news = coming.result()
                    coming = asyncio.ensure_future(anext(messages))
                    self._answered(news.revision)
                    # A member that lags behind after a reconnect tells of what is long past.
                    changes = [one for one in news.changes if one.revision > view.revision]
                    batch = None
                    if changes:
                        view.apply(changes)
                        batch = self._layout.batch(changes, view.revision)
                    yield batch
            finally:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except StoreDeniedError:
            # It answers: what this user may not do says nothing of the connection.
            self._answered()
            raise
        except (StoreUnavailableError, StoreRefusedError) as error:
            self._health.failed(str(self._transport.endpoint), str(error))
            raise
        self._answered()
        return result

    def _answered(self, revision: int = 0) -> None:
        self._health.answered(str(self._transport.endpoint), revision)

    def _start_over(self, detail: str) -> None:
        if self._restarts.due(time.monotonic(), detail):
            fields = {"endpoint": str(self._transport.endpoint), "detail": detail}
            log.info("listing the store anew", extra={"fields": fields})
