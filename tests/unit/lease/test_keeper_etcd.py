"""What etcd itself does to a lease: it is killed, it loses its data, it stands behind a proxy."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.stores import EtcdServer, grpc_proxy, run, until
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.lease import roll_call
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held
from tunneld.store import StoreOptions, open_store


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


@pytest.mark.parametrize("is_direct", [True, False])
def test_copy_behind_a_proxy_is_answered_by_the_live_host(
    etcd_http: EtcdServer,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_direct: bool,
) -> None:
    # However slow the machine, the live host is in time.
    monkeypatch.setattr(roll_call, "ANSWER_S", 60.0)

    async def main(proxy: StoreOptions) -> None:
        behind = [open_store(proxy) for _ in range(2)]
        stores = [etcd_http.open(prefix), behind[0]] if is_direct else behind
        async with (
            Node(stores[0], ME, node_id="copied", machine="a" * 32) as one,
            Node(stores[1], ALICE, node_id="copied", machine="a" * 32, seed=2) as two,
        ):
            first = await one.acquire(NETWORK)
            await one.sees(first)
            await two.sees(first)
            second = await two.acquire(NETWORK)
            assert second.key != first.key
            found = await two.store.read()
            assert {lease.key for lease in found.leases} == {first.key, second.key}
            assert (one.renamed, two.renamed) == ([], [True])
            for node in (one, two):
                keeping = asyncio.create_task(node.keeper.keep())
                node.ahead_s = 30.0
                await until(lambda node=node: (node.keeper.left_s or 0.0) > 45.0)  # type: ignore[misc]
                keeping.cancel()
            await two.sees(second)
            await until(lambda: not any(one.is_question for one in two.tracker.records))

    with grpc_proxy(etcd_http, tmp_path) as endpoint:
        run(main(StoreOptions(endpoints=(endpoint,), prefix=prefix)))
