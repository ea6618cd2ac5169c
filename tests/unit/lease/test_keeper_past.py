"""A store that brings back a host's own past: the host knows it again, and a clone it does not."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.support.leases import holder
from tests.support.memory_store import LAYOUT, Backup, MemoryServer
from tests.support.virtual_time import run_virtually
from tests.unit.lease.values import NETWORK
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import Batch, Lease, LeaseAttributes, SubnetKey
from tunneld.lease.ownership import Held
from tunneld.lease.tracker import LeaseTracker

MACHINE, ANOTHER = "a" * 32, "b" * 32
HOME, AWAY, FAR = "192.0.2.11", "192.0.2.61", "192.0.2.111"


class Host:
    """A daemon: follows the store, answers, and takes back what it lost."""

    def __init__(
        self, store: MemoryServer, node_id: str, machine: str | None, address: str, seed: int = 1
    ) -> None:
        self.store = store
        self.address = address
        self.tracker = LeaseTracker()
        self._way = store.open()
        self.keeper = Keeper(
            self._way,
            node_id=node_id,
            machine=machine,
            version="0.1.0",
            ttl_s=86_400.0,
            renew_margin_s=3600.0,
            rng=random.Random(seed),
            clock=asyncio.get_running_loop().time,
        )
        self.listed = asyncio.Event()

    async def move(self, address: str, previous: SubnetKey | None = None) -> Lease:
        """Gets a lease with that address."""
        self.address = address
        told = LeaseAttributes(public_ip=holder(address).public_ip)
        return await self.keeper.acquire(self.tracker, NETWORK, told, previous)

    async def follow(self) -> None:
        async for news in self._way.watch():
            if isinstance(news, Batch):
                self.tracker.apply(news)
            else:
                self.tracker.reset(news)
            self.listed.set()

    async def answer(self) -> None:
        while True:
            await self.keeper.answer(self.tracker)
            await asyncio.sleep(0.02)

    async def hold(self) -> None:
        while True:
            if self.keeper.lease is not None and not isinstance(
                self.keeper.observe(self.tracker), Held
            ):
                await self.move(self.address)
            # Later than the answers: they must not go by a table that was not judged yet.
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(
    store: MemoryServer,
    node_id: str = "node",
    machine: str | None = MACHINE,
    address: str = HOME,
    *,
    seed: int = 1,
    previous: SubnetKey | None = None,
) -> AsyncIterator[Host]:
    host = Host(store, node_id, machine, address, seed)
    tasks = [asyncio.create_task(way()) for way in (host.follow, host.answer, host.hold)]
    try:
        await host.listed.wait()
        await host.move(address, previous)
        yield host
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError), ended


async def settle() -> None:
    """Lets more time pass than any question takes."""
    await asyncio.sleep(60.0)


def assert_kept(host: Host, subnet: SubnetKey, node_id: str = "node") -> None:
    """Checks that this host alone has a lease, that it is the same one, and its record."""
    listing = host.store.listing()
    assert [(one.key, str(one.holder)) for one in listing.leases] == [(subnet, host.address)]
    assert host.keeper.node_id == node_id
    assert any(one.node_id == node_id and one.describes(listing.leases[0])
               for one in listing.records)  # fmt: skip
    assert host.keeper.state == "held"


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]


Way = Callable[[MemoryServer, Host, list[Backup]], Awaitable[None]]


async def moved(store: MemoryServer, host: Host, backups: list[Backup]) -> None:
    backups.append(store.backup())
    await host.move(AWAY)


async def moved_twice(store: MemoryServer, host: Host, backups: list[Backup]) -> None:
    await moved(store, host, backups)
    await host.move(FAR)


async def moved_there_and_back(store: MemoryServer, host: Host, backups: list[Backup]) -> None:
    await host.move(AWAY)
    backups.append(store.backup())
    await host.move(FAR)
    await host.move(HOME)


async def moved_and_wiped(store: MemoryServer, host: Host, backups: list[Backup]) -> None:
    await moved_twice(store, host, backups)
    store.restore()
    await settle()


async def renamed_by_a_clone(store: MemoryServer, host: Host, backups: list[Backup]) -> None:
    await moved(store, host, backups)
    host.keeper._attendance.node_id = "renamed"
    await host.move(FAR)


@pytest.mark.parametrize("machine", [MACHINE, None])
@pytest.mark.parametrize(
    "way", [moved, moved_twice, moved_there_and_back, moved_and_wiped, renamed_by_a_clone]
)
def test_host_knows_its_own_past_at_a_former_address(
    way: Way, machine: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = MemoryServer()
        async with running(store, machine=machine) as host:
            subnet = store.listing().leases[0].key
            backups: list[Backup] = []
            await way(store, host, backups)
            await settle()
            store.restore(backups[0])
            # Well below what a question takes: of its own writes a process need not ask.
            await asyncio.sleep(0.5)
            assert_kept(host, subnet, host.keeper.node_id)
            await settle()
            store.restore(backups[0])
            await settle()
            assert_kept(host, subnet, "renamed" if way is renamed_by_a_clone else "node")

    run_virtually(main())
    assert complaints(caplog) == []


@pytest.mark.parametrize(
    ("before", "after", "node_id"),
    [
        (MACHINE, MACHINE, "node"),
        (None, None, "node"),
        (None, MACHINE, "node"),
        (ANOTHER, MACHINE, "node"),
        (MACHINE, MACHINE, "lost"),
    ],
)
def test_host_knows_the_past_of_an_earlier_process_that_nobody_answers_for(
    before: str | None, after: str | None, node_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = MemoryServer()
        async with running(store, machine=before) as host:
            subnet = store.listing().leases[0].key
            backup = store.backup()
        # A restart first, with the address it had, then the address changes.
        async with running(store, node_id, after) as host:
            await host.move(AWAY)
            await settle()
            store.restore(backup)
            await settle()
            assert_kept(host, subnet, node_id)

    run_virtually(main())
    assert complaints(caplog) == []


def test_subnet_held_in_the_past_is_given_up_for_the_one_held_now() -> None:
    async def main() -> None:
        store = MemoryServer()
        async with running(store) as host:
            first = store.listing().leases[0]
            backup = store.backup()
            # Somebody has it by now, and the host has another one.
            store.restore(backup)
            store.put(LAYOUT.lease(first.key), b'{"PublicIP":"192.0.2.99"}', grant_id=7)
            await settle()
            subnet = next(one.key for one in store.listing().leases if one.key != first.key)
            await host.move(AWAY)
            await settle()
            store.restore(backup)
            await settle()
            assert_kept(host, subnet)

    run_virtually(main())


def test_hosts_that_have_swapped_addresses_keep_their_subnets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = MemoryServer()
        async with (
            running(store, "one", MACHINE, HOME) as one,
            running(store, "two", ANOTHER, AWAY, seed=2) as two,
        ):
            first, second = one.keeper.lease, two.keeper.lease
            assert first is not None
            assert second is not None
            backup = store.backup()
            await one.move(FAR)
            await two.move(HOME)
            await one.move(AWAY)
            await settle()
            store.restore(backup)
            await settle()
            held = {lease.key: str(lease.holder) for lease in store.listing().leases}
            assert held == {first.key: AWAY, second.key: HOME}
            assert (one.keeper.node_id, two.keeper.node_id) == ("one", "two")

    run_virtually(main())
    assert not [line for line in complaints(caplog) if "lost" in line or "copy" in line]


@pytest.mark.parametrize("machine", [MACHINE, None])
@pytest.mark.parametrize("is_from_before_the_clone", [True, False])
def test_two_daemons_with_one_state_directory_keep_a_subnet_each(
    machine: str | None, is_from_before_the_clone: bool
) -> None:
    async def main() -> None:
        store = MemoryServer()
        async with running(store, machine=machine) as host:
            backup = store.backup()
            async with running(store, machine=machine, address=AWAY, seed=2) as clone:
                subnets = [one.keeper.lease and one.keeper.lease.key for one in (host, clone)]
                node_id = clone.keeper.node_id
                assert node_id != "node"
                if not is_from_before_the_clone:
                    backup = store.backup()
                await host.move(FAR)
                await settle()
                store.restore(backup)
                await settle()
                held = {lease.key: str(lease.holder) for lease in store.listing().leases}
                assert held == dict(zip(subnets, (FAR, AWAY), strict=True))
                assert (host.keeper.node_id, clone.keeper.node_id) == ("node", node_id)

    run_virtually(main())


def test_clone_that_lives_answers_for_what_a_host_takes_for_its_past(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        store = MemoryServer()
        async with running(store) as host:
            first = store.listing().leases[0]
            # Its machine was cloned with its memory; the clone has moved, and wrote first.
            clone = Host(store, "node", MACHINE, AWAY)
            clone.tracker.reset(store.listing())
            clone.keeper.adopt(first, 3600.0, clone.tracker)
            clone.keeper._life.lease = first
            clone.keeper._life.is_adopted = False
            following = asyncio.create_task(clone.follow())
            answering = asyncio.create_task(clone.answer())
            await clone.move(AWAY)
            await settle()
            held = {lease.key: str(lease.holder) for lease in store.listing().leases}
            assert held.pop(first.key) == AWAY
            assert list(held.values()) == [HOME]
            assert host.keeper.node_id != clone.keeper.node_id
            following.cancel()
            answering.cancel()
            await asyncio.gather(following, answering, return_exceptions=True)

    run_virtually(main())
    assert any("is a copy of another host's" in line for line in complaints(caplog))


def test_listing_from_before_the_own_write_is_not_believed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        store = MemoryServer()
        empty = store.listing()
        async with running(store) as host:
            lease = host.keeper.lease
            # One that was under way while the lease was written, and comes after the answer.
            host.tracker.reset(empty)
            assert not isinstance(host.keeper.observe(host.tracker), Held)
            assert await host.move(HOME) == lease
            assert isinstance(host.keeper.observe(host.tracker), Held)
            await settle()
            assert store.listing().leases == (lease,)
            await host.move(AWAY)
            former, moved_to = store.listing(), host.keeper.lease
            assert lease is not None
            host.tracker.reset(replace(former, revision=lease.mod_revision, leases=(lease,)))
            assert not isinstance(host.keeper.observe(host.tracker), Held)
            assert await host.move(AWAY) == moved_to
            await settle()
            assert store.listing().leases == (moved_to,)

    run_virtually(main())
    said = [entry.getMessage() for entry in caplog.records]
    assert said.count("the lease is written anew, in place") == 1
    assert complaints(caplog) == []
