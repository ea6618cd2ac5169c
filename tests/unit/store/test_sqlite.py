"""What only a file can do: be shared by processes, replaced, unusable, pruned."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from testbed.wait import PATIENCE
from tests.support.stores import Follower, SqliteServer, run, until
from tests.support.virtual_time import run_virtually
from tests.unit.store.opened import A, claimed_for, opened
from tunneld.clock import Now
from tunneld.errors import StoreUnavailableError
from tunneld.lease.model import ConfigPut, LeaseDeleted
from tunneld.store.sqlite.file import File
from tunneld.store.sqlite.store import SqliteStore
from tunneld.store.transaction import Put, Transaction

# Claims subnets until none is free; prints how many it got.
RACER = """
import asyncio, sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from tunneld.errors import SubnetTakenError
from tunneld.lease.model import LeaseAttributes, NodeRecord, SubnetKey
from tunneld.lease.registry import Claim
from tunneld.store import StoreOptions, open_store

async def main(path, node):
    store = open_store(StoreOptions(kind="sqlite", path=Path(path), prefix="/race"))
    grant = await store.grant(60)
    won = 0
    for number in range(50):
        key = SubnetKey(IPv4Network(f"10.5.{number}.0/24"))
        ip = IPv4Address("192.0.2.1") + int(node)
        record = NodeRecord(node_id=node, key=key, public_ip=ip, version="0")
        claim = Claim(key=key, attributes=LeaseAttributes(public_ip=ip), record=record,
                      grant=grant, expected_revision=0)
        try:
            await store.claim(claim)
            won += 1
        except SubnetTakenError:
            pass
    await store.close()
    print(won)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def server(tmp_path: Path) -> SqliteServer:
    return SqliteServer(tmp_path / "store.db")


def test_processes_sharing_a_new_file_never_hold_one_subnet_twice(server: SqliteServer) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(server.path), str(node)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(4)
    ]
    outputs = [racer.communicate(timeout=60 * PATIENCE)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4, outputs
    assert sum(map(int, outputs)) == 50
    assert len(server.everything("/race/subnets/")) == 50


def test_watcher_that_fell_behind_gets_a_new_snapshot(server: SqliteServer, prefix: str) -> None:
    async def main() -> None:
        store = SqliteStore(server.path, prefix, kept_revisions=5)
        try:
            async with Follower(store) as follower:
                # The watch sees nothing in between: the last look has ended, and the loop stands.
                store._thread.submit(bool).result()
                for number in range(50):
                    server.put(f"{prefix}/config", str(number).encode())
                await store.write_config("last")
                await until(lambda: len(follower.snapshots) == 2)
                assert follower.snapshots[1].config == "last"
                await store.write_config("after")
                await until(lambda: follower.events == [ConfigPut("after")])
        finally:
            await store.close()

    run(main())


def test_changes_are_all_there_or_none_while_others_prune(tmp_path: Path) -> None:
    reader = File(tmp_path / "store.db", kept_revisions=1)

    def write() -> None:
        writer = File(tmp_path / "store.db", kept_revisions=1)
        put = Transaction(puts=(Put(name="/network/config", value=b"{}"),))
        for _ in range(3000):
            writer.transact(put)
        writer.close()

    file_id, revision, _ = reader.entries("/network/")
    with ThreadPoolExecutor(1) as other:
        written = other.submit(write)
        while not written.done():
            found = reader.changes(file_id, revision)
            if found is not None:
                seen = [change.revision for change in found[1]]
                assert seen == list(range(revision + 1, found[0] + 1))
            revision = reader.revision
    written.result()
    reader.changes(file_id, revision)
    assert reader.revision > 3000
    reader.close()


def test_history_is_pruned(server: SqliteServer, prefix: str) -> None:
    async def main() -> None:
        store = SqliteStore(server.path, prefix, kept_revisions=5)
        for number in range(50):
            await store.write_config(str(number))
        await store.close()

    run(main())
    with server._write() as db:
        assert db.execute("SELECT count(*) FROM changes").fetchone() == (5,)


def test_replaced_file_leads_to_a_new_snapshot(server: SqliteServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store, opened(server, prefix) as writer:
            await writer.write_config("old")
            async with Follower(store) as follower:
                # The file itself last: whoever looks before still has the others open.
                for path in sorted(server.path.parent.iterdir(), reverse=True):
                    path.unlink()
                await writer.write_config("new")
                await until(lambda: bool(follower.snapshots[1:] and follower.seen[-1:]))
                await until(
                    lambda: (
                        "new" in [item.config for item in follower.snapshots]
                        or ConfigPut("new") in follower.events
                    )
                )

    run(main())


def test_ended_lease_is_removed_by_whoever_looks(server: SqliteServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await claimed_for(0.3, store)
        # The holder is gone, nobody withdrew the lease.
        async with opened(server, prefix) as other, Follower(other) as follower:
            await until(
                lambda: LeaseDeleted(A) in follower.events or not follower.snapshots[0].leases
            )
            assert (await other.read()).leases == ()
        assert server.everything(prefix) == {}

    run(main())


@pytest.mark.parametrize("kind", ["missing directory", "directory", "other file"])
def test_unusable_file_is_one_clear_error_and_no_end_of_the_watch(
    kind: str, tmp_path: Path, prefix: str
) -> None:
    path = tmp_path / "store.db"
    match kind:
        case "missing directory":
            path = tmp_path / "none" / "store.db"
        case "directory":
            path.mkdir()
        case _:
            path.write_text("not a database, but long enough to be looked at twice\n" * 100)

    async def main() -> None:
        async with opened(SqliteServer(path), prefix) as store:
            with pytest.raises(StoreUnavailableError, match="cannot be used") as caught:
                await store.read()
            assert str(path) in str(caught.value)
            assert not store.status().connected
            watching = asyncio.ensure_future(anext(store.watch()))
            if kind == "missing directory":
                path.parent.mkdir()
                assert (await watching).revision == 1
            else:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    run(main())


def test_networks_in_one_file_do_not_see_each_other(server: SqliteServer) -> None:
    async def main() -> None:
        async with opened(server, "/a") as one, opened(server, "/b") as two:
            await one.write_config("one")
            assert (await two.read()).config is None
            async with Follower(two) as follower:
                await one.write_config("more")
                await two.write_config("two")
                await until(lambda: follower.events == [ConfigPut("two")])

    run(main())


@pytest.mark.parametrize("is_there_already", [False, True])
def test_no_stranger_can_open_the_file_and_hold_a_lock_on_it(
    server: SqliteServer, prefix: str, is_there_already: bool
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.write_config("{}")
            for end in ("", "-wal", "-shm"):
                assert os.stat(f"{server.path}{end}").st_mode & 0o007 == 0, end

    before = os.umask(0o022)
    try:
        if is_there_already:
            with closing(sqlite3.connect(server.path)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("CREATE TABLE of_others (x)")
            assert server.path.stat().st_mode & 0o004
        run(main())
    finally:
        os.umask(before)


def test_log_that_is_taken_away_hides_nobody_from_newcomers(
    server: SqliteServer, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as old, Follower(old) as follower:
            await old.write_config("1")
            await until(lambda: follower.events == [ConfigPut("1")])
            log = Path(f"{server.path}-wal")
            await asyncio.to_thread(log.unlink)
            # Until a daemon that has it open has looked at it.
            await until(log.exists)
            async with opened(server, prefix) as new:
                assert (await new.read()).config == "1"
                await new.write_config("2")
            await until(lambda: ConfigPut("2") in follower.events or follower.snapshots[1:] != [])
            assert (await old.read()).config == "2"

    run(main())


def test_rows_of_any_type_upset_nobody(server: SqliteServer, prefix: str) -> None:
    odd = (None, 7, 1.5, "text", b"\xff\xfe", "[" * 5_000)

    async def main() -> None:
        async with opened(server, prefix) as store, Follower(store) as follower:
            with server._write() as db:
                for n, value in enumerate(odd):
                    name = f"{prefix}/subnets/10.5.{n}.0-24"
                    db.execute("INSERT INTO entries VALUES (?, ?, 'x', 'y', 2.5)", (name, value))
                    db.execute(
                        "INSERT INTO changes SELECT revision, ?1, ?2, 1, ?3, 'x', 'y' FROM state",
                        (n, name, value),
                    )
                blob = b"/net\xff"
                db.execute("INSERT INTO entries VALUES (?, x'00', 0, 1, 1)", (blob,))
                db.execute(
                    "INSERT INTO changes SELECT revision, 99, ?, 0, 1, 1, 1 FROM state", (blob,)
                )
            await until(lambda: len(follower.events) >= len(odd))
            assert len((await store.read()).malformed) == len(odd)
            await store.write_config("after")
            await until(lambda: follower.events[-1:] == [ConfigPut("after")])

    run(main())


def test_file_without_its_state_is_an_error_and_no_end_of_the_watch(
    server: SqliteServer, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store, Follower(store) as follower:
            with server._write() as db:
                db.execute("DELETE FROM state")
            await until(lambda: not store.status().connected)
            with server._write() as db:
                db.execute("INSERT INTO state VALUES (1, 'again', 9, 1)")
            await until(lambda: len(follower.snapshots) == 2)

    run(main())


class Machine:
    """The clocks of a machine, in the time of the loop."""

    def __init__(self) -> None:
        self.set_by_s = 0.0
        self.booted_s = 0.0
        self.boot_id: str | None = "first"

    def now(self) -> Now:
        now_s = asyncio.get_running_loop().time()
        wall_s = 1_800_000_000.0 + now_s + self.set_by_s
        return Now(wall_s=wall_s, boot_s=now_s - self.booted_s, boot_id=self.boot_id)

    def boot(self) -> None:
        self.booted_s = asyncio.get_running_loop().time()
        self.boot_id = "next"


@pytest.mark.parametrize("set_by_s", [-864_000.0, 864_000.0])
def test_wall_clock_that_is_set_neither_ends_a_lease_nor_keeps_it(
    server: SqliteServer, prefix: str, set_by_s: float
) -> None:
    async def main() -> None:
        machine = Machine()
        store = SqliteStore(server.path, prefix, clock=machine.now)
        grant, lease = await claimed_for(3_600.0, store)
        machine.set_by_s = set_by_s
        # Another process, which looks at the file for the first time.
        other = SqliteStore(server.path, prefix, clock=machine.now)
        await asyncio.sleep(3_500.0)
        assert (await other.read()).leases == (lease,)
        assert 99.0 < (await other.remaining([grant.grant_id]))[grant.grant_id] <= 100.0
        await store.keep_alive(grant)
        await asyncio.sleep(3_599.0)
        assert (await store.read()).leases == (lease,)
        await asyncio.sleep(2.0)
        assert (await store.read()).leases == ()
        await store.close()
        await other.close()

    run_virtually(main())


@pytest.mark.parametrize(
    ("set_by_s", "left_s"), [(0.0, 2_600.0), (-864_000.0, 3_600.0), (864_000.0, 0.0)]
)
def test_after_a_boot_the_wall_clock_tells_within_the_life_of_a_lease(
    server: SqliteServer, prefix: str, set_by_s: float, left_s: float
) -> None:
    async def main() -> None:
        machine = Machine()
        store = SqliteStore(server.path, prefix, clock=machine.now)
        grant, _ = await claimed_for(3_600.0, store)
        await store.close()
        await asyncio.sleep(1_000.0)
        machine.boot()
        machine.set_by_s = set_by_s
        store = SqliteStore(server.path, prefix, clock=machine.now)
        found = (await store.remaining([grant.grant_id])).get(grant.grant_id, 0.0)
        assert found == pytest.approx(left_s, abs=1.0)
        await store.close()

    run_virtually(main())
