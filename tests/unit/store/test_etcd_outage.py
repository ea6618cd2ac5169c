"""An etcd that goes away, hangs, or is not there, and what is said of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.stores import EtcdServer, Follower, run, until
from tests.support.wait import PATIENCE
from tests.unit.store.opened import B, claim_of, opened, opened_with
from tunneld.errors import StoreUnavailableError
from tunneld.lease.model import ConfigPut
from tunneld.store import StoreOptions

BOUND_S = 30.0 * PATIENCE
"""For what ends after 5 s, on a machine that has more to do."""


@pytest.fixture
def dead() -> Iterator[str]:
    """An endpoint where nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def silent_listener() -> Iterator[str]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


def test_watch_misses_nothing_while_etcd_is_killed_and_restarted(
    etcd: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store, opened(etcd, prefix) as writer:
            grant = await writer.grant(60)
            async with Follower(store) as follower:
                await writer.claim(claim_of(grant))
                await until(lambda: len(follower.events) == 2)
                await asyncio.to_thread(etcd.kill)
                await until(lambda: not store.status().connected)
                assert "does not answer" in (store.status().problem or "")
                await asyncio.to_thread(etcd.start)
                # Written while the watch may still be waiting to try again.
                await writer.claim(claim_of(grant, B, node="node-b"))
                etcd.put(f"{prefix}/config", b"{}")
                await until(lambda: ConfigPut("{}") in follower.events)
                assert len(follower.events) == 5
                assert len(follower.snapshots) == 1
                assert store.status().connected
                assert store.status().problem is None

    run(main())


def test_watch_waits_for_a_store_that_is_away_at_start(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    server = EtcdServer(tmp_path_factory.mktemp("etcd-late"))

    async def main() -> None:
        async with opened(server, prefix) as store:
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                await store.read()
            task = asyncio.ensure_future(anext(store.watch()))
            await asyncio.to_thread(server.start)
            assert (await task).revision >= 1

    try:
        run(main())
    finally:
        server.stop()


def test_hanging_etcd_costs_a_bounded_time(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store:
            await store.read()
            async with Follower(store) as follower:
                assert etcd.process is not None
                etcd.process.pause()
                try:
                    with pytest.raises(StoreUnavailableError, match="no answer within 5 s"):
                        await asyncio.wait_for(store.read(), BOUND_S)
                finally:
                    etcd.process.resume()
                etcd.put(f"{prefix}/config", b"{}")
                await until(lambda: follower.events == [ConfigPut("{}")])

    run(main())


def test_hung_watch_is_noticed_without_any_call(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        async with opened(etcd, prefix) as store, Follower(store):
            assert etcd.process is not None
            etcd.process.pause()
            try:
                await until(lambda: not store.status().connected)
            finally:
                etcd.process.resume()
            await until(lambda: store.status().connected)

    run(main())


def test_listener_that_never_answers_costs_a_bounded_time(prefix: str) -> None:
    async def main(endpoint: str) -> None:
        async with opened_with(StoreOptions(endpoints=(endpoint,), prefix=prefix)) as store:
            with pytest.raises(StoreUnavailableError, match="no answer within 5 s"):
                await asyncio.wait_for(store.read(), BOUND_S)

    with silent_listener() as endpoint:
        run(main(endpoint))


def test_call_moves_on_from_a_dead_endpoint(dead: str, etcd_http: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        options = StoreOptions(endpoints=(dead, etcd_http.endpoint), prefix=prefix)
        async with opened_with(options) as store:
            await store.write_config("{}")
            assert store.status().endpoint == etcd_http.endpoint
            async with Follower(store) as follower:
                assert follower.snapshots[0].config == "{}"

    run(main())


def test_error_names_endpoint_and_cause(dead: str, prefix: str) -> None:
    async def main() -> None:
        async with opened_with(StoreOptions(endpoints=(dead,), prefix=prefix)) as store:
            with pytest.raises(StoreUnavailableError, match="refused") as caught:
                await store.grant(60)
            assert dead in str(caught.value)
            assert "\n" not in str(caught.value)
            assert store.status().connected is False
            assert store.status().problem == str(caught.value)

    run(main())
