"""A store in memory, in whatever time the loop has: one for all nodes of a test.

It holds the bytes that etcd would, by the same layout and transactions, and the conformance suite
of the stores runs on it. It can do what real ones do to nodes: be away, cut off one of them, lose
an answer, end grants too early, go back to a backup.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

from tests.support.virtual_time import run_virtually
from tunneld.errors import GrantLostError, StoreFullError, StoreUnavailableError
from tunneld.lease.model import (
    Batch,
    Lease,
    NodeRecord,
    Reservation,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.registry import Claim, Grant, Store, StoreStatus
from tunneld.store import transaction
from tunneld.store.health import Health
from tunneld.store.layout import Change, Entry, Layout
from tunneld.store.transaction import Outcome, Put, Transaction

T = TypeVar("T")

WRITE_S = 0.001
NEWS_S = 0.002
"""How long a call takes, and a change until a watch tells of it."""

PREFIX = "/coreos.com/network"
LAYOUT = Layout(PREFIX)

ROUNDING_S = 1e-6
"""A timer may fire a rounding error before its time, and would for ever."""

KEPT_CHANGES = 10_000


@dataclass
class _Held:
    """A grant: its life, and when that ends on the server's clock."""

    ttl_s: float
    ends_s: float


@dataclass
class Backup:
    """What the store held at one moment."""

    revision: int = 1
    entries: dict[str, Entry] = field(default_factory=dict)
    ttls_s: dict[int, float] = field(default_factory=dict)


class MemoryServer:
    """What the nodes share."""

    def __init__(self) -> None:
        self.revision = 1
        self.history = 1
        """Another one after each restore."""
        self.is_away = False
        self.is_full = False
        """Whether nothing more is written; grants are renewed, and keys deleted around tunneld."""
        self._is_down = False
        self._entries: dict[str, Entry] = {}
        self._changes: list[Change] = []
        self._forgotten = 1
        """Up to this revision changes are not known any more."""
        self._grants: dict[int, _Held] = {}
        self._ids = count(100)
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._offset_s = self._last_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._listed: tuple[object, Snapshot] | None = None

    # A server of the conformance suite.

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs a test in virtual time."""
        return run_virtually(main)

    def open(self, prefix: str = PREFIX) -> MemoryStore:
        """Returns one node's way to the store."""
        return MemoryStore(self, prefix)

    def put(self, name: str, value: bytes, grant_id: int = 0) -> None:
        """Writes around tunneld."""
        self.transact(Transaction(puts=(Put(name, value),)), grant_id)

    def delete(self, name: str) -> None:
        """Deletes around tunneld."""
        self.transact(Transaction(deletes=(name,)))

    def everything(self, prefix: str) -> dict[str, bytes]:
        """Returns all that stands below a prefix."""
        self._expire()
        return {
            name: entry.value
            for name, entry in sorted(self._entries.items())
            if name.startswith(prefix)
        }

    def listing(self, layout: Layout = LAYOUT) -> Snapshot:
        """Returns what reading the store would."""
        entries, told = self.entries(layout.root), (layout.root, self.history, self.revision)
        if self._listed is None or self._listed[0] != told:
            self._listed = told, layout.snapshot(entries, self.revision)
        return self._listed[1]

    # Faults.

    def leave(self, *, is_down: bool = False) -> None:
        """Answers nobody any more; unless it is down, its grants run on and end."""
        self._expire()
        self.is_away, self._is_down = True, is_down
        self._arm()

    def come_back(self) -> None:
        """Answers again; an etcd that was down gives every grant its full time once more."""
        if self._is_down:
            for grant in self._grants.values():
                grant.ends_s = self.now_s() + grant.ttl_s
        self.is_away = self._is_down = False
        self.told()

    def jump(self, by_s: float) -> None:
        """Sets the server's clock; ahead, it ends grants before their time."""
        self._offset_s += by_s
        self._last_s = max(0.0, self._last_s + by_s)
        self._expire()

    def backup(self) -> Backup:
        """Returns all that is held now."""
        ttls_s = {grant_id: grant.ttl_s for grant_id, grant in self._grants.items()}
        return Backup(self.revision, dict(self._entries), ttls_s)

    def restore(self, backup: Backup | None = None) -> None:
        """Goes back to `backup`, or to nothing; whoever follows lists anew."""
        kept = backup or Backup()
        self.revision, self._entries = kept.revision, dict(kept.entries)
        self._grants = {
            grant_id: _Held(ttl_s, self.now_s() + ttl_s) for grant_id, ttl_s in kept.ttls_s.items()
        }
        self.list_anew()

    def list_anew(self) -> None:
        """Forgets what has changed: whoever follows reads a listing."""
        self.history += 1
        self._changes, self._forgotten = [], self.revision
        self.told()

    # What a store does.

    def now_s(self) -> float:
        """Returns the server's time; it goes on from one loop to the next."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._last_s
        if loop is not self._loop:
            self._loop, self._alarm = loop, None
            self._offset_s = self._last_s - loop.time()
        self._last_s = loop.time() + self._offset_s
        return self._last_s

    def entries(self, root: str) -> list[Entry]:
        """Returns what stands below `root`, sorted by name."""
        self._expire()
        return [entry for name, entry in sorted(self._entries.items()) if name.startswith(root)]

    def changes(self, root: str, after: int) -> list[Change] | None:
        """Returns what has changed since a revision; None: it is not known."""
        self._expire()
        if after < self._forgotten or after > self.revision:
            return None
        return [
            change
            for change in self._changes
            if change.revision > after and change.name.startswith(root)
        ]

    def transact(self, wanted: Transaction, grant_id: int = 0) -> Outcome:
        """Writes all of it under one revision, or nothing."""
        self._expire()
        is_done = all(self._mod_revision(name) == told for name, told in wanted.expected)
        if is_done:
            for put in wanted.puts:
                if put.grant_id:
                    self._required(put.grant_id)
            self.revision += 1
            for name in wanted.deletes:
                self._delete(name)
            for put in wanted.puts:
                former = self._entries.get(put.name)
                entry = Entry(
                    name=put.name,
                    value=put.value,
                    grant_id=put.grant_id or grant_id,
                    create_revision=former.create_revision if former else self.revision,
                    mod_revision=self.revision,
                )
                self._entries[put.name] = entry
                self._changed(Change(name=put.name, entry=entry, revision=self.revision))
            self.told()
        found = None if wanted.read is None else self._entries.get(wanted.read)
        return Outcome(is_done, self.revision, found)

    def grant(self, ttl_s: float) -> int:
        """Returns the id of a new grant."""
        grant_id = next(self._ids)
        self._grants[grant_id] = _Held(ttl_s, self.now_s() + ttl_s)
        self._arm()
        return grant_id

    def keep_alive(self, grant_id: int) -> float:
        """Gives a grant its full time again. Raises GrantLostError when it has ended."""
        self._expire()
        grant = self._required(grant_id)
        grant.ends_s = self.now_s() + grant.ttl_s
        self._arm()
        return grant.ttl_s

    def remaining(self, grant_ids: Sequence[int]) -> dict[int, float]:
        """Returns the seconds left of each grant that is known."""
        self._expire()
        now_s = self.now_s()
        return {
            grant_id: self._grants[grant_id].ends_s - now_s
            for grant_id in grant_ids
            if grant_id in self._grants
        }

    def told(self) -> None:
        """Wakes whoever waits for news."""
        waiting, self._waiting = self._waiting, set()
        for news in waiting:
            if not news.done():
                news.set_result(None)
        self._arm()

    async def news(self) -> None:
        """Returns after the next change, of what is held or of who is answered."""
        news = asyncio.get_running_loop().create_future()
        self._waiting.add(news)
        try:
            await news
        finally:
            self._waiting.discard(news)

    def _required(self, grant_id: int) -> _Held:
        if grant_id not in self._grants:
            raise GrantLostError(f"grant {grant_id} is unknown to the store: its time ran out")
        return self._grants[grant_id]

    def _mod_revision(self, name: str) -> int:
        return self._entries[name].mod_revision if name in self._entries else 0

    def _delete(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            self._changed(Change(name=name, entry=None, revision=self.revision))

    def _changed(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > KEPT_CHANGES:
            half = self._changes[: KEPT_CHANGES // 2]
            self._changes = self._changes[len(half) :]
            self._forgotten = half[-1].revision

    def _expire(self) -> None:
        now_s = self.now_s()
        for grant_id, grant in () if self._is_down else list(self._grants.items()):
            if grant.ends_s <= now_s + ROUNDING_S:
                del self._grants[grant_id]
                names = [n for n, entry in self._entries.items() if entry.grant_id == grant_id]
                if names:
                    self.revision += 1
                    for name in names:
                        self._delete(name)
                    self.told()
        self._arm()

    def _arm(self) -> None:
        """Has the next grant end in its time, when nobody calls."""
        self.now_s()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        is_counting = self._loop is not None and self._loop.is_running() and not self._is_down
        if self._loop is not None and is_counting and self._grants:
            next_s = min(grant.ends_s for grant in self._grants.values())
            self._alarm = self._loop.call_at(next_s - self._offset_s, self._expire)


class MemoryStore:
    """A `lease.registry.Store`: one node's way to a server."""

    def __init__(self, server: MemoryServer, prefix: str) -> None:
        self.server = server
        self.is_cut_off = False
        """Whether this node alone has no answer."""
        self.loses_answer: Callable[[], bool] = lambda: False
        """Asked after each write, which has been done."""
        self._layout = Layout(prefix)
        self._health = Health("memory", "memory", server.now_s)

    def cut_off(self, is_cut_off: bool = True) -> None:
        """Takes the way to the server away, or gives it back."""
        self.is_cut_off = is_cut_off
        self.server.told()

    def status(self) -> StoreStatus:
        """Returns whether the last call was answered."""
        return replace(self._health.status(), cluster=f"memory-{self.server.history}")

    async def read(self) -> Snapshot:
        """Lists everything at one revision."""
        return await self._call(self._listing)

    async def watch(self) -> AsyncGenerator[Snapshot | Batch, None]:
        """Yields a snapshot, then every change; goes on by itself where it was cut off."""
        server = self.server
        history = revision = -1
        while True:
            news: Snapshot | Batch | None = None
            changes = None
            if self._is_silent:
                self._health.failed("memory", "it is away")
                await server.news()
                continue
            if history == server.history:
                changes = server.changes(self._layout.root, revision)
            if changes is None:
                history, news = server.history, self._listing()
            elif changes:
                news = self._layout.batch(changes, server.revision)
            revision = server.revision
            self._health.answered("memory", revision)
            if isinstance(news, Snapshot) or (news is not None and news.events):
                await asyncio.sleep(NEWS_S)
                yield news
            if (history, revision) == (server.history, server.revision):
                await server.news()

    async def write_config(self, text: str) -> int:
        """Writes the network config; returns the revision."""
        write = Transaction(puts=(Put(self._layout.config, text.encode()),))
        return (await self._write(write)).revision

    async def grant(self, ttl_s: float) -> Grant:
        """Returns a new grant."""
        grant_id = await self._call(lambda: self.server.grant(ttl_s), is_write=True)
        return Grant(grant_id=grant_id, ttl_s=ttl_s)

    async def keep_alive(self, grant: Grant) -> Grant:
        """Gives the grant its full time again."""
        ttl_s = await self._call(lambda: self.server.keep_alive(grant.grant_id))
        return Grant(grant_id=grant.grant_id, ttl_s=ttl_s)

    async def claim(self, claim: Claim) -> Lease:
        """Writes a lease and its record."""
        wanted = transaction.claim(self._layout, claim)
        return transaction.claimed(self._layout, claim, await self._write(wanted))

    async def write_record(self, record: NodeRecord, grant: Grant) -> None:
        """Writes a node record alone."""
        await self._write(transaction.record(self._layout, record, grant))

    async def drop_record(self, node_id: str) -> None:
        """Deletes a node record."""
        await self._write(transaction.no_record(self._layout, node_id))

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        """Deletes a lease and the node's record; False when it was written since."""
        wanted = transaction.withdraw(self._layout, lease, node_id)
        return transaction.withdrawn(await self._write(wanted))

    async def reserve(self, wanted: Reservation, *, lease_revision: int) -> None:
        """Writes a reservation, if the subnet's lease is as it was seen."""
        order = transaction.reserve(self._layout, wanted, lease_revision)
        transaction.reserved(wanted, await self._write(order))

    async def release(self, key: SubnetKey, lasting: Lease | None, grant: Grant | None) -> bool:
        """Deletes a reservation; False when its lasting lease was written since."""
        order = transaction.release(self._layout, key, lasting, grant)
        return transaction.released(await self._write(order), grant)

    async def remaining(self, grant_ids: Sequence[int]) -> dict[int, float]:
        """Returns the seconds left of each grant that is known."""
        return await self._call(lambda: self.server.remaining(grant_ids))

    def reconnect(self) -> None:
        """Does nothing: there is no connection."""

    async def close(self) -> None:
        """Does nothing either."""

    def _listing(self) -> Snapshot:
        return self.server.listing(self._layout)

    @property
    def _is_silent(self) -> bool:
        return self.is_cut_off or self.server.is_away

    async def _write(self, wanted: Transaction) -> Outcome:
        return await self._call(lambda: self.server.transact(wanted), is_write=True)

    async def _call(self, call: Callable[[], T], *, is_write: bool = False) -> T:
        await asyncio.sleep(WRITE_S)
        if self._is_silent:
            raise self._unavailable("it is away")
        if is_write and self.server.is_full:
            raise StoreFullError("store in memory: it is full")
        found = call()
        await asyncio.sleep(WRITE_S)
        if self._is_silent or (is_write and self.loses_answer()):
            raise self._unavailable("its answer was lost")
        self._health.answered("memory", self.server.revision)
        return found

    def _unavailable(self, problem: str) -> StoreUnavailableError:
        self._health.failed("memory", problem)
        return StoreUnavailableError(f"store in memory: {problem}")


def _is_a_store(store: MemoryStore) -> Store:
    """Has mypy compare the interfaces."""
    return store
