"""Keeping a lease, in virtual time: days of it in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from tests.support.memory_store import MemoryServer
from tests.support.stores import until
from tests.unit.lease.entries import lease_name
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.errors import GrantLostError, LeaseError, StoreUnavailableError
from tunneld.lease.keeper import LOOK_S
from tunneld.lease.life import renewal_interval_s
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held
from tunneld.lease.registry import Grant

DAY_S, HOUR_S = 86_400.0, 3_600.0


@asynccontextmanager
async def keeping(node: Node) -> AsyncIterator[list[float]]:
    """Keeps the lease meanwhile; yields the times at which a renewal is tried."""
    tried: list[float] = []
    keep_alive = node.store.keep_alive

    async def noted(grant: Grant) -> Grant:
        tried.append(asyncio.get_running_loop().time())
        return await keep_alive(grant)

    node.store.keep_alive = noted  # type: ignore[method-assign]
    task = asyncio.create_task(node.keeper.keep())
    try:
        yield tried
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()


def waits(times: list[float]) -> list[float]:
    return [round(later - sooner, 1) for sooner, later in pairwise(times)]


@pytest.mark.parametrize(
    ("ttl_s", "margin_s", "interval_s"),
    [
        (86_400.0, 3_600.0, 28_800.0),
        (86_400.0, 82_800.0, 3_600.0),
        (30.0, 3_600.0, 10.0),
        (30.0, 30.0, 10.0),
        (30.0, 29.99, 0.1),
        (30.0, 0.0, 10.0),
    ],
)
def test_lease_is_renewed_at_a_third_of_its_time_or_before_the_margin(
    ttl_s: float, margin_s: float, interval_s: float
) -> None:
    assert renewal_interval_s(ttl_s, margin_s) == pytest.approx(interval_s)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0])
def test_time_to_live_must_be_positive(ttl_s: float) -> None:
    with pytest.raises(LeaseError, match="expected more than 0"):
        renewal_interval_s(ttl_s, 0.0)


def test_kept_lease_lasts_and_peers_see_no_write(memory: MemoryServer, prefix: str) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, ttl_s=DAY_S) as node:
            first = await node.acquire(NETWORK)
            revision = memory.revision
            async with keeping(node) as tried:
                await asyncio.sleep(3 * DAY_S)
            assert waits(tried) == [8 * HOUR_S] * 8
            assert (memory.revision, node.keeper.state) == (revision, "held")
            assert (await node.store.read()).leases == (first,)

    memory.run(main())


def test_store_that_is_away_is_tried_more_and_more_rarely(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, ttl_s=HOUR_S) as node:
            await node.acquire(NETWORK)
            memory.leave()
            async with keeping(node) as tried:
                await asyncio.sleep(HOUR_S / 3 + 300.0)
                assert waits(tried) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
                assert "it is away" in (node.keeper.problem or "")
                # Back for once: the next trouble begins with short waits again.
                memory.come_back()
                await asyncio.sleep(60.0)
                assert node.keeper.problem is None
                memory.leave()
                tried.clear()
                await asyncio.sleep(HOUR_S / 3)
                assert waits(tried)[:3] == [1.0, 2.0, 4.0]

    memory.run(main())


def test_lease_is_renewed_as_soon_as_the_store_is_seen_to_be_back(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Node(memory.open(prefix), ME, ttl_s=HOUR_S) as node:
            await node.acquire(NETWORK)
            memory.leave()
            async with keeping(node) as tried:
                await asyncio.sleep(HOUR_S / 2)
                # Right after an attempt, the next of which would be a minute later.
                await until(lambda: loop.time() - tried[-1] < 0.5)
                back_s = loop.time()
                memory.come_back()
                await until(lambda: node.keeper.problem is None)
                assert loop.time() - back_s < 2.0

    memory.run(main())


def test_host_cut_off_past_the_end_of_its_lease_goes_on_degraded(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, ttl_s=HOUR_S) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            memory.leave(is_down=True)
            async with keeping(node):
                await asyncio.sleep(HOUR_S - 1.0)
                states = [node.keeper.state]
                await asyncio.sleep(2.0)
                assert [*states, node.keeper.state] == ["held", "degraded"]
                assert "past its end" in (node.keeper.problem or "")
                await asyncio.sleep(HOUR_S)
                assert (node.keeper.state, node.keeper.lease) == ("degraded", first)
                # Nobody has ended it meanwhile.
                memory.come_back()
                await until(lambda: node.keeper.state == "held")
                assert node.keeper.problem is None

    memory.run(main())


@pytest.mark.parametrize("is_taken", [False, True])
def test_host_whose_lease_ended_while_it_was_cut_off_gets_one_again(
    memory: MemoryServer, prefix: str, is_taken: bool
) -> None:
    async def main() -> None:
        store = memory.open(prefix)
        async with (
            Node(store, ME, ttl_s=HOUR_S) as node,
            Node(memory.open(prefix), ALICE, ttl_s=HOUR_S) as other,
        ):
            first = await node.acquire(NETWORK)
            await node.sees(first)
            store.cut_off()
            task = asyncio.create_task(node.keeper.keep())
            await asyncio.sleep(HOUR_S + 1.0)
            states = [node.keeper.state]
            if is_taken:
                assert (await other.acquire(NETWORK, str(first.key))).key == first.key
            store.cut_off(False)
            await until(task.done)
            with pytest.raises(GrantLostError):
                task.result()
            assert node.keeper.left_s is None
            states.append(node.keeper.state)
            second = await node.acquire(NETWORK)
            assert (second.key == first.key) is not is_taken
            assert [*states, node.keeper.state] == ["degraded", "lost", "held"]

    memory.run(main())


def test_renewal_that_fails_late_says_nothing_about_the_lease_that_is_held_by_then(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, ttl_s=HOUR_S) as node:
            await node.acquire(NETWORK)
            asked, given_up = asyncio.Event(), asyncio.Event()

            async def hangs(grant: Grant) -> Grant:
                asked.set()
                await given_up.wait()
                raise StoreUnavailableError(f"no answer about {grant.grant_id}")

            node.store.keep_alive = hangs  # type: ignore[method-assign]
            async with keeping(node) as tried:
                await asked.wait()
                await asyncio.sleep(HOUR_S)
                await node.verdict()
                await node.acquire(NETWORK)
                given_up.set()
                await asyncio.sleep(60.0)
                assert (node.keeper.problem, len(tried)) == (None, 1)

    memory.run(main())


def test_lease_is_renewed_in_time_though_the_host_was_suspended(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, ttl_s=DAY_S) as node:
            await node.acquire(NETWORK)
            async with keeping(node) as tried:
                await asyncio.sleep(HOUR_S)
                # The machine's timers stand still while it sleeps; its clock does not.
                memory.jump(20 * HOUR_S)
                node.ahead_s = 20 * HOUR_S
                assert 2.9 * HOUR_S < (node.keeper.left_s or 0.0) <= 3.0 * HOUR_S
                await asyncio.sleep(LOOK_S + 1.0)
                assert len(tried) == 1
                assert (node.keeper.left_s or 0.0) > 23.9 * HOUR_S

    memory.run(main())


def test_remembered_lease_is_held_until_a_listing_says_otherwise(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            remembered = await node.store.read()
            again = Node(memory.open(prefix), ME, seed=2)
            again.tracker.reset(remembered)
            again.keeper.adopt(first, 30.0, again.tracker)
            assert (again.keeper.state, again.keeper.lease) == ("held", first)
            assert again.keeper.left_s == 30.0
            assert again.keeper.observe(again.tracker) == Held()
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Held()
            memory.delete(lease_name(prefix, first))
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Deleted()
            return first, await again.acquire(NETWORK)

    first, second = memory.run(main())
    assert second.key == first.key


@pytest.mark.parametrize("left_s", [864_000.0, 5.0, -3_600.0])
def test_remembered_lease_is_renewed_at_once_whatever_a_clock_says_of_its_end(
    memory: MemoryServer, prefix: str, left_s: float
) -> None:
    async def main() -> None:
        # A time at which adding the life and taking it off again is not exact in floating point.
        await asyncio.sleep(13_182.989)
        async with Node(memory.open(prefix), ME, ttl_s=6_000.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            again = Node(memory.open(prefix), ME, ttl_s=6_000.0)
            again.tracker.reset(node.tracker.view)
            again.keeper.adopt(first, left_s, again.tracker)
            assert again.keeper.left_s == pytest.approx(min(left_s, 6_000.0))
            assert again.keeper.state == ("held" if left_s > 0 else "degraded")
            async with keeping(again) as tried:
                await asyncio.sleep(1.0)
                # The one renewal gives the whole time again: the next is a third of it later.
                assert len(tried) == 1
                assert (again.keeper.left_s or 0.0) > 5_998.0
                await asyncio.sleep(2_000.0)
                assert waits(tried) == [2_000.0]

    memory.run(main())
