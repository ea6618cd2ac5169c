"""An etcd that forgets, or that changes while it is listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import EtcdServer, Follower, grpc_proxy, run, until
from tests.unit.store.opened import claim_of, opened, opened_with
from tunneld.lease.model import ConfigPut
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions
from tunneld.store.etcd import client
from tunneld.store.etcd import store as etcd_store
from tunneld.store.etcd.transport import Credentials, Transport, parse_endpoint
from tunneld.store.layout import Change


def test_compacted_history_leads_to_a_new_snapshot(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store, Follower(store) as follower:
            await store.write_config("1")
            await until(lambda: ConfigPut("1") in follower.events)
            # The watch must not follow while history moves on without it.
            assert etcd.process is not None
            await asyncio.to_thread(etcd.kill)
            await until(lambda: not store.status().connected)
            held = hold_back(store)
            await asyncio.to_thread(etcd.start)
            etcd.put(f"{prefix}/config", b"2")
            etcd.put(f"{prefix}/config", b"3")
            revision = (await store.read()).revision
            etcd.ctl("compact", str(revision))
            held.set()
            await until(lambda: len(follower.snapshots) == 2)
            assert follower.snapshots[1].config == "3"
            await store.write_config("4")
            await until(lambda: follower.events[-1:] == [ConfigPut("4")])

    run(main())


def test_pages_of_a_listing_are_of_one_revision(
    etcd_http: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAGE_SIZE", 2)
    monkeypatch.setattr(client, "PAGE_SIZE", 2)
    for number in range(6):
        etcd_http.put(f"{prefix}/subnets/10.5.{number}.0-24", b'{"PublicIP":"192.0.2.1"}')

    async def main() -> None:
        transport = Transport([parse_endpoint(etcd_http.endpoint)], Credentials())
        real = transport.call

        async def call(method: Any, request: Any, doing: str) -> Any:
            answer = await real(method, request, doing)
            etcd_http.put(f"{prefix}/subnets/10.5.5.0-24", b'{"PublicIP":"192.0.2.66"}')
            return answer

        monkeypatch.setattr(transport, "call", call)
        try:
            listing = await client.EtcdClient(transport).list(f"{prefix}/")
        finally:
            await transport.close()
        assert [entry.value for entry in listing.entries] == [b'{"PublicIP":"192.0.2.1"}'] * 6
        assert max(entry.mod_revision for entry in listing.entries) == listing.place.revision

    run(main())


def hold_back(store: Store) -> asyncio.Event:
    """Keeps the next watch of a store from opening until the event is set."""
    client = store._client  # type: ignore[attr-defined]
    real, sample = client.watch, client.sample
    released = asyncio.Event()

    async def look(root: str, revision: int = 0) -> object:
        await released.wait()
        return await sample(root, revision)

    async def watch(root: str, start_revision: int) -> AsyncIterator[object]:
        await released.wait()
        async for news in real(root, start_revision):
            yield news

    client.watch, client.sample = watch, look
    return released


def test_past_that_a_lagging_member_tells_of_is_not_believed(
    etcd_http: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with opened(etcd_http, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            name = f"{prefix}/subnets/10.5.1.0-24"
            gone = Change(name=name, entry=None, revision=lease.mod_revision - 1)
            real = store._client.watch  # type: ignore[attr-defined]

            async def watch(root: str, start_revision: int) -> AsyncIterator[object]:
                yield client.News(lease.mod_revision - 1, (gone,))
                async for news in real(root, start_revision):
                    yield news

            store._client.watch = watch  # type: ignore[attr-defined]
            async with Follower(store) as follower:
                await store.write_config("{}")
                await until(lambda: bool(follower.events))
                assert follower.events == [ConfigPut("{}")]

    run(main())


def test_replaced_history_is_told_by_its_content_though_it_has_grown_past_ours(
    etcd: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            async with Follower(store) as follower:
                await asyncio.to_thread(etcd.kill)
                await until(lambda: not store.status().connected)
                held = hold_back(store)
                etcd.wipe()
                # The same cluster id and, with luck, the same term; and soon a higher revision.
                await asyncio.to_thread(etcd.start)
                for number in range(10):
                    etcd.put("/elsewhere", str(number).encode())
                held.set()
                await until(lambda: len(follower.snapshots) == 2)
                assert follower.snapshots[1].leases == ()
                assert follower.snapshots[1].revision > follower.snapshots[0].revision
                await store.write_config("after")
                await until(lambda: ConfigPut("after") in follower.events)

    run(main())


def test_history_that_is_replaced_behind_a_watch_that_lives_on_is_noticed(
    etcd: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_store, "COMPARISON_INTERVAL_S", 0.2)

    async def silent(root: str, start_revision: int) -> AsyncIterator[object]:
        yield client.News(0, ())
        await asyncio.Event().wait()

    async def main() -> None:
        async with opened(etcd, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            store._client.watch = silent  # type: ignore[attr-defined]
            async with Follower(store) as follower:
                await asyncio.to_thread(etcd.kill)
                etcd.wipe()
                await asyncio.to_thread(etcd.start)
                etcd.put(f"{prefix}/config", b"other")
                await until(lambda: follower.snapshots[-1].config == "other")
                assert follower.snapshots[-1].leases == ()

    run(main())


def test_watches_behind_a_proxy_are_one_history_and_a_wiped_store_is_another(
    etcd: EtcdServer,
    prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(etcd_store, "COMPARISON_INTERVAL_S", 0.2)

    async def main(options: StoreOptions) -> None:
        async with (
            opened_with(options) as store,
            opened_with(options) as another,
            opened_with(options) as third,
            Follower(store) as first,
            Follower(another) as second,
            Follower(third) as last,
        ):
            everybody = (first, second, last)
            await store.claim(claim_of(await store.grant(600)))
            for number in range(20):
                await store.write_config(str(number))
            await until(lambda: all(ConfigPut("19") in one.events for one in everybody))
            assert [len(follower.snapshots) for follower in everybody] == [1] * 3
            # Their watches to the proxy live on.
            await asyncio.to_thread(etcd.kill)
            etcd.wipe()
            await asyncio.to_thread(etcd.start)
            await until(lambda: all(len(follower.snapshots) > 1 for follower in everybody))
            assert [follower.snapshots[-1].leases for follower in everybody] == [()] * 3

    with grpc_proxy(etcd, tmp_path) as endpoint:
        run(main(StoreOptions(endpoints=(endpoint,), prefix=prefix)))


def test_wiped_etcd_leads_to_a_new_snapshot(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            for number in range(20):
                await store.write_config(str(number))
            async with Follower(store) as follower:
                await asyncio.to_thread(etcd.kill)
                etcd.wipe()
                await asyncio.to_thread(etcd.start)
                await until(lambda: len(follower.snapshots) == 2)
                assert follower.snapshots[1].revision < follower.snapshots[0].revision
                assert follower.snapshots[1].leases == ()
                await store.write_config("after")
                await until(lambda: ConfigPut("after") in follower.events)

    run(main())
