"""What etcd itself does to a lease: it is killed, and it loses its data."""

from __future__ import annotations

import asyncio

from tests.support.stores import EtcdServer, run, until
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ME, NETWORK
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held


def test_host_cut_off_past_the_end_of_its_lease_goes_on_degraded(
    etcd: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(etcd.open(prefix), ME, ttl_s=6.0) as node:
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


def test_etcd_that_lost_its_data_gets_the_lease_back(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(etcd.open(prefix), ME) as node:
            for _ in range(5):
                await node.store.write_config("{}")
            first = await node.acquire(NETWORK)
            await node.sees(first)
            await asyncio.to_thread(etcd.kill)
            etcd.wipe()
            await asyncio.to_thread(etcd.start)
            assert await node.verdict() == Deleted()
            second = await node.acquire(NETWORK)
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            return first, second

    first, second = run(main())
    assert second.key == first.key
    assert second.mod_revision < first.mod_revision
