"""A store in memory with what backups do to one: it goes back to what it held before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from tunneld.errors import GrantLostError, SubnetTakenError
from tunneld.lease.model import (
    Batch,
    Event,
    Lease,
    LeaseDeleted,
    LeasePut,
    NodeRecord,
    RecordDeleted,
    RecordPut,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.registry import Claim, Grant, StoreStatus


@dataclass(frozen=True)
class Backup:
    """What the store held at one moment."""

    revision: int = 1
    leases: dict[SubnetKey, Lease] = field(default_factory=dict)
    records: dict[str, tuple[NodeRecord, int]] = field(default_factory=dict)
    grants: frozenset[int] = frozenset()


class MemoryStore:
    """One for all hosts of a test; every call takes a moment, as over a network."""

    def __init__(self) -> None:
        self._now = Backup()
        self._grant_ids = count(100)
        self._followers: list[asyncio.Queue[Snapshot | Batch]] = []

    def backup(self) -> Backup:
        now = self._now
        return replace(now, leases=dict(now.leases), records=dict(now.records))

    def restore(self, backup: Backup | None = None) -> None:
        """Goes back to `backup`, or to nothing; whoever follows lists anew."""
        kept = backup or Backup()
        self._now = replace(kept, leases=dict(kept.leases), records=dict(kept.records))
        self.list_anew()

    def list_anew(self) -> None:
        for follower in self._followers:
            follower.put_nowait(self.listing())

    def listing(self) -> Snapshot:
        return Snapshot(
            revision=self._now.revision,
            config="{}",
            leases=tuple(self._now.leases.values()),
            records=tuple(record for record, _ in self._now.records.values()),
        )

    def status(self) -> StoreStatus:
        return StoreStatus(
            kind="memory", connected=True, revision=self._now.revision, endpoint="memory"
        )

    async def read(self) -> Snapshot:
        await asyncio.sleep(0.001)
        return self.listing()

    async def watch(self) -> AsyncIterator[Snapshot | Batch]:
        news: asyncio.Queue[Snapshot | Batch] = asyncio.Queue()
        news.put_nowait(self.listing())
        self._followers.append(news)
        try:
            while True:
                found = await news.get()
                await asyncio.sleep(0.002)
                yield found
        finally:
            self._followers.remove(news)

    async def grant(self, ttl_s: float) -> Grant:
        await asyncio.sleep(0.001)
        grant = Grant(grant_id=next(self._grant_ids), ttl_s=ttl_s)
        self._now = replace(self._now, grants=self._now.grants | {grant.grant_id})
        return grant

    async def keep_alive(self, grant: Grant) -> Grant:
        await asyncio.sleep(0.001)
        self._require(grant)
        return grant

    async def claim(self, claim: Claim) -> Lease:
        await asyncio.sleep(0.001)
        self._require(claim.grant)
        wanted = {claim.key: claim.expected_revision}
        wanted |= {lease.key: lease.mod_revision for lease in claim.drop}
        for key, revision in wanted.items():
            there = self._now.leases.get(key)
            if (there.mod_revision if there else 0) != revision:
                raise SubnetTakenError(f"{key} has changed")
        revision = self._now.revision + 1
        former = self._now.leases.get(claim.key)
        lease = Lease(
            key=claim.key,
            attributes=claim.attributes,
            grant_id=claim.grant.grant_id,
            create_revision=former.create_revision if former else revision,
            mod_revision=revision,
        )
        self._write(
            *(LeaseDeleted(dropped.key) for dropped in claim.drop),
            LeasePut(lease),
            RecordPut(claim.record),
            grant=claim.grant,
        )
        await asyncio.sleep(0.001)
        return lease

    async def write_record(self, record: NodeRecord, grant: Grant) -> None:
        await asyncio.sleep(0.001)
        self._require(grant)
        self._write(RecordPut(record), grant=grant)

    async def drop_record(self, node_id: str) -> None:
        await asyncio.sleep(0.001)
        if node_id in self._now.records:
            self._write(RecordDeleted(node_id))

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        await asyncio.sleep(0.001)
        self._write(LeaseDeleted(lease.key), RecordDeleted(node_id))
        return True

    async def write_config(self, _text: str) -> int:
        raise NotImplementedError("no test in memory changes the network")

    async def remaining(self, _grant_ids: Sequence[int]) -> dict[int, float]:
        return {}

    def reconnect(self) -> None:
        return

    async def close(self) -> None:
        return

    def _require(self, grant: Grant) -> None:
        if grant.grant_id not in self._now.grants:
            raise GrantLostError(f"grant {grant.grant_id} is unknown")

    def _write(self, *events: Event, grant: Grant | None = None) -> None:
        now = self._now
        for event in events:
            match event:
                case LeasePut(lease):
                    now.leases[lease.key] = lease
                case LeaseDeleted(key):
                    now.leases.pop(key, None)
                case RecordPut(record) if grant is not None:
                    now.records[record.node_id] = (record, grant.grant_id)
                case RecordDeleted(node_id):
                    now.records.pop(node_id, None)
                case _:
                    raise NotImplementedError(str(event))
        self._now = replace(now, revision=now.revision + 1)
        for follower in self._followers:
            follower.put_nowait(Batch(revision=self._now.revision, events=events))
