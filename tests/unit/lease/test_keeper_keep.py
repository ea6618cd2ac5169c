"""Keeping a lease, on real stores."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.stores import EtcdServer, Server, run, until
from tests.unit.lease.entries import lease_name
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ME, NETWORK
from tunneld.errors import LeaseError
from tunneld.lease.keeper import Keeper, renewal_interval_s
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held
from tunneld.lease.registry import Grant


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


def test_kept_lease_outlives_its_time_and_peers_see_no_write(server: Server, prefix: str) -> None:
    async def main() -> None:
        # Renewed each third of it: a machine that stops for a moment is still in time.
        async with Node(server.options(prefix), ME, ttl_s=7.5) as node:
            first = await node.acquire(NETWORK)
            begin_s = node.keeper.expires_at_s
            assert begin_s is not None
            keeping = asyncio.create_task(node.keeper.keep())
            await until(lambda: (node.keeper.expires_at_s or 0.0) > begin_s + 8.0)
            keeping.cancel()
            assert (await node.store.read()).leases == (first,)
            assert node.keeper.state == "held"

    run(main())


def test_remembered_lease_is_held_until_a_listing_says_otherwise(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            remembered = await node.store.read()
            again = Node(server.options(prefix), ME, seed=2)
            again.tracker.reset(remembered)
            again.keeper.adopt(first, 30.0, again.tracker)
            assert (again.keeper.state, again.keeper.lease) == ("held", first)
            left_s = (again.keeper.expires_at_s or 0.0) - asyncio.get_running_loop().time()
            assert 25.0 < left_s <= 30.0
            assert again.keeper.observe(again.tracker) == Held()
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Held()
            await asyncio.to_thread(server.delete, lease_name(prefix, first))
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Deleted()
            second = await again.acquire(NETWORK)
            await again.store.close()
            return first, second

    first, second = run(main())
    assert second.key == first.key


def test_remembered_lease_is_renewed_before_its_end(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME, ttl_s=30.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            again = Node(server.options(prefix), ME, ttl_s=30.0)
            again.tracker.reset(node.tracker.view)
            again.keeper.adopt(first, 2.0, again.tracker)
            begin_s = again.keeper.expires_at_s or 0.0
            keeping = asyncio.create_task(again.keeper.keep())
            await until(lambda: (again.keeper.expires_at_s or 0.0) > begin_s)
            keeping.cancel()
            await again.store.close()

    run(main())


@pytest.mark.parametrize("left_s", [864_000.0, 5.0])
def test_remembered_lease_is_renewed_at_once_whatever_a_clock_says_of_its_end(
    server: Server, prefix: str, left_s: float
) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME, ttl_s=6_000.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            again = Node(server.options(prefix), ME, ttl_s=6_000.0)
            again.tracker.reset(node.tracker.view)
            again.keeper.adopt(first, left_s, again.tracker)
            begin_s = asyncio.get_running_loop().time()
            adopted_s = again.keeper.expires_at_s or 0.0
            assert adopted_s - begin_s <= min(left_s, 6_000.0)
            renewals = []
            keep_alive = again.store.keep_alive

            async def counted(grant: Grant) -> Grant:
                renewals.append(grant)
                return await keep_alive(grant)

            again.store.keep_alive = counted  # type: ignore[method-assign]
            keeping = asyncio.create_task(again.keeper.keep())
            await until(lambda: bool(renewals))
            # The one renewal gives the whole time again: there is no second for as long.
            await until(lambda: (again.keeper.expires_at_s or 0.0) >= begin_s + 6_000.0)
            assert len(renewals) == 1
            keeping.cancel()
            await again.store.close()

    run(main())


def test_lease_is_renewed_as_soon_as_the_store_is_seen_to_be_back(
    etcd: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the store's return nothing would be tried before the test is given up.
    monkeypatch.setattr(Keeper, "_next_retry_s", lambda _self, _last_s: 3_600.0)

    async def main() -> None:
        async with Node(etcd.options(prefix), ME, ttl_s=60.0) as node:
            first = await node.acquire(NETWORK)
            again = Node(etcd.options(prefix), ME, ttl_s=60.0)
            again.tracker.reset(node.tracker.view)
            again.keeper.adopt(first, 60.0, again.tracker)
            await asyncio.to_thread(etcd.kill)
            keeping = asyncio.create_task(again.keeper.keep())
            await until(lambda: again.keeper.problem is not None)
            await asyncio.to_thread(etcd.start)
            watching = asyncio.create_task(again.store.read())
            await until(lambda: again.keeper.problem is None)
            keeping.cancel()
            await watching
            await again.store.close()

    run(main())


def test_host_cut_off_past_the_end_of_its_lease_goes_on_degraded(
    etcd: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(etcd.options(prefix), ME, ttl_s=6.0) as node:
            first = await node.acquire(NETWORK)
            keeping = asyncio.create_task(node.keeper.keep())
            await asyncio.to_thread(etcd.kill)
            await until(lambda: node.keeper.state == "degraded")
            await until(lambda: "could not be renewed" in (node.keeper.problem or ""))
            assert not keeping.done()
            await asyncio.to_thread(etcd.start)
            # A restarted etcd gives each of its leases the full time again.
            await until(lambda: node.keeper.state == "held")
            assert node.keeper.problem is None
            assert (await node.store.read()).leases == (first,)
            keeping.cancel()

    run(main())
