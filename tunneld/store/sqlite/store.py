"""The embedded store: leases of one machine in one SQLite file that several daemons share.

Path of a lease: the file -> `store.sqlite.file` -> **store.sqlite.store** -> `lease.tracker`.
No distributed store: the file must lie on a local file system. A watch looks ten times a second.
Every call of SQLite runs in a thread of its own, never on the loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tunneld.clock import Now
from tunneld.errors import (
    NoThreadError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    TunneldError,
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
from tunneld.store import transaction
from tunneld.store.health import Health
from tunneld.store.layout import Layout
from tunneld.store.sqlite.file import KEPT_REVISIONS, File
from tunneld.store.transaction import Put, Transaction

T = TypeVar("T")

POLL_S = 0.1


class SqliteStore:
    """A `lease.registry.Store` in a file."""

    def __init__(
        self,
        path: Path,
        prefix: str,
        *,
        kept_revisions: int = KEPT_REVISIONS,
        clock: Callable[[], Now] = Now.read,
    ) -> None:
        """Raises NoThreadError where the kernel gives no thread."""
        self._layout = Layout(prefix)
        self._file = File(path, kept_revisions, clock)
        self._endpoint = str(path)
        self._health = Health("sqlite", self._endpoint)
        self._file_id = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tunneld-sqlite")
        try:
            self._thread.submit(lambda: None)  # by which it is there from now on
        except RuntimeError as error:
            raise NoThreadError("use the store's file") from error

    def status(self) -> StoreStatus:
        """Returns whether the last look at the file succeeded."""
        return replace(self._health.status(), cluster=self._file_id or None)

    async def read(self) -> Snapshot:
        """Lists everything at one revision."""
        return (await self._read())[1]

    async def watch(self) -> AsyncGenerator[Snapshot | Batch, None]:
        """Yields a snapshot, then every change, looking at the file every `POLL_S`."""
        file_id = ""
        revision: int | None = None
        while True:
            news: Snapshot | Batch | None = None
            try:
                if revision is not None:
                    found = await self._run(self._file.changes, file_id, revision)
                    if found is None:
                        revision = None
                    else:
                        revision, changes = found
                        news = self._layout.batch(changes, revision)
                if revision is None:
                    file_id, news = await self._read()
                    revision = news.revision
            except StoreError:
                # Told by `_run`; the file may come back.
                news = None
            if isinstance(news, Snapshot) or (news is not None and news.events):
                yield news
            await asyncio.sleep(POLL_S)

    async def write_config(self, text: str) -> int:
        """Writes the network config; returns the revision."""
        write = Transaction(puts=(Put(self._layout.config, text.encode()),))
        return (await self._run(self._file.transact, write)).revision

    async def grant(self, ttl_s: float) -> Grant:
        """Returns a new grant."""
        return Grant(grant_id=await self._run(self._file.grant, ttl_s), ttl_s=ttl_s)

    async def keep_alive(self, grant: Grant) -> Grant:
        """Gives the grant its full time again. Raises GrantLostError when it has run out."""
        ttl_s = await self._run(self._file.keep_alive, grant.grant_id)
        return Grant(grant_id=grant.grant_id, ttl_s=ttl_s)

    async def claim(self, claim: Claim) -> Lease:
        """Writes a lease and its record. Raises SubnetTakenError when somebody was faster."""
        wanted = transaction.claim(self._layout, claim)
        outcome = await self._run(self._file.transact, wanted)
        return transaction.claimed(self._layout, claim, outcome)

    async def write_record(self, record: NodeRecord, grant: Grant) -> None:
        """Writes a node record alone. Raises GrantLostError when the grant has run out."""
        wanted = transaction.record(self._layout, record, grant)
        await self._run(self._file.transact, wanted)

    async def drop_record(self, node_id: str) -> None:
        """Deletes a node record, if it is there."""
        await self._run(self._file.transact, transaction.no_record(self._layout, node_id))

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        """Deletes a lease and the node's record; False when it was written since."""
        wanted = transaction.withdraw(self._layout, lease, node_id)
        return transaction.withdrawn(await self._run(self._file.transact, wanted))

    async def reserve(self, wanted: Reservation, *, lease_revision: int) -> None:
        """Writes a reservation, if the subnet's lease is as it was seen."""
        order = transaction.reserve(self._layout, wanted, lease_revision)
        transaction.reserved(wanted, await self._run(self._file.transact, order))

    async def release(self, key: SubnetKey, lasting: Lease | None, grant: Grant | None) -> bool:
        """Deletes a reservation; False when its lasting lease was written since."""
        order = transaction.release(self._layout, key, lasting, grant)
        return transaction.released(await self._run(self._file.transact, order), grant)

    async def remaining(self, grant_ids: Sequence[int]) -> dict[int, float]:
        """Returns the seconds left of each grant that is known."""
        left = await self._run(self._file.remaining)
        return {grant_id: left[grant_id] for grant_id in grant_ids if grant_id in left}

    def reconnect(self) -> None:
        """Does nothing: a file is reached from any address."""

    async def close(self) -> None:
        """Closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown(wait=False)

    async def _read(self) -> tuple[str, Snapshot]:
        file_id, revision, entries = await self._run(self._file.entries, self._layout.root)
        self._file_id = file_id
        return file_id, self._layout.snapshot(entries, revision)

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, call, *arguments)
        except TunneldError:
            raise
        except Exception as error:
            # What SQLite and the system raise, and what a file of others' making leads to.
            self._health.failed(self._endpoint, str(error))
            raise _store_error(self._endpoint, error) from error
        self._health.answered(self._endpoint, self._file.revision)
        return result


def _store_error(path: str, error: Exception) -> StoreError:
    is_refused = isinstance(error, PermissionError) or (
        isinstance(error, sqlite3.Error)
        and getattr(error, "sqlite_errorname", "").startswith(("SQLITE_READONLY", "SQLITE_PERM"))
    )
    if is_refused:
        return StoreRefusedError(
            f"store file {path} may not be written: {error}; give this user the right to it"
        )
    if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
        return StoreUnavailableError(
            f"store file {path} cannot grow: {error}; make room on its file system"
        )
    words = str(error) if isinstance(error, sqlite3.Error | OSError) else repr(error)
    return StoreUnavailableError(
        f"store file {path} cannot be used: {words}; check that its directory exists on a local "
        "file system and that it is a store of tunneld"
    )
