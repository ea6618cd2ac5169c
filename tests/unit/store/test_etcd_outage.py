"""An etcd that goes away, hangs, or is not there, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from testbed.wait import PATIENCE
from tests.support.stores import EtcdServer, Follower, run, serving, until, until_async
from tests.unit.store.opened import B, claim_of, opened, opened_with
from tunneld.errors import StoreUnavailableError
from tunneld.lease.model import ConfigPut
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions
from tunneld.store.etcd import channel, race, transport
from tunneld.store.etcd import store as store_module

BOUND_S = 30.0 * PATIENCE
"""For what ends after 5 s, on a machine that has more to do."""


@pytest.fixture
def dead() -> Iterator[str]:
    """An endpoint where nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes calls give up sooner: that they do is shown, not when."""
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 2.0)
    monkeypatch.setattr(transport, "ANSWER_TIMEOUT_S", 2.0)


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


def test_hanging_etcd_costs_a_bounded_time(
    etcd: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)

    async def main() -> None:
        async with opened(etcd, prefix) as store:
            await store.read()
            async with Follower(store) as follower:
                assert etcd.process is not None
                etcd.process.pause()
                try:
                    with pytest.raises(
                        StoreUnavailableError, match=r"no answer( from 127\.0\.0\.1)? within 2 s"
                    ):
                        await asyncio.wait_for(store.read(), BOUND_S)
                finally:
                    etcd.process.resume()
                etcd.put(f"{prefix}/config", b"{}")
                await until(lambda: follower.events == [ConfigPut("{}")])

    run(main())


def test_hung_watch_is_noticed_without_any_call(
    etcd: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 1.0)
    monkeypatch.setattr(channel, "PING_TIMEOUT_S", 1.0)
    # The comparison is a call, which would notice it too.
    monkeypatch.setattr(store_module, "COMPARISON_INTERVAL_S", 1e6)

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


def test_listener_that_never_answers_costs_a_bounded_time(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)

    async def main(endpoint: str) -> None:
        async with opened_with(StoreOptions(endpoints=(endpoint,), prefix=prefix)) as store:
            with pytest.raises(
                StoreUnavailableError, match=r"no answer( from 127\.0\.0\.1)? within 2 s"
            ):
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


def test_server_that_wants_fewer_pings_gets_them_and_nobody_is_alarmed(
    tmp_path_factory: pytest.TempPathFactory,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(transport, "PING_INTERVAL_S", 0.1)
    monkeypatch.setattr(channel, "PING_TIMEOUT_S", 1.0)
    caplog.set_level(logging.INFO, "tunneld.store")

    def lines(text: str) -> int:
        return sum(text in record.getMessage() for record in caplog.records)

    async def main(server: EtcdServer) -> None:
        async with opened(server, prefix) as store, Follower(store) as follower:
            await until(lambda: lines("fewer pings") == 1)
            await asyncio.to_thread(server.put, f"{prefix}/config", b"{}")
            await until(lambda: follower.events == [ConfigPut("{}")])
            assert lines("does not answer") == 0
            assert lines("store connected") == 1
            assert len(follower.snapshots) == 1

    options = ("--grpc-keepalive-min-time", "60s")
    with serving(EtcdServer(tmp_path_factory.mktemp("etcd-calm"), None, *options)) as server:
        run(main(server))


def test_name_with_a_silent_first_address_leads_to_the_second(
    etcd_http: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(silent: str) -> None:
        ports = [int(url.rpartition(":")[2]) for url in (silent, etcd_http.endpoint)]
        found = [race.Address(socket.AF_INET, ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(race, "look_up", lambda host, port: found)
        async with opened_with(StoreOptions(endpoints=("http://etcd.test",), prefix=prefix)) as one:
            assert (await one.read()).revision >= 1

    with silent_listener() as silent:
        run(main(silent))


def test_look_up_that_outlives_a_call_serves_the_next(
    etcd_http: EtcdServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT_S", 0.2)
    answered, asked = threading.Event(), []
    port = int(etcd_http.endpoint.rpartition(":")[2])

    def slow(host: str, _: int) -> list[race.Address]:
        asked.append(host)
        answered.wait(BOUND_S)
        return [race.Address(socket.AF_INET, ("127.0.0.1", port))]

    monkeypatch.setattr(race, "look_up", slow)

    async def main() -> None:
        options = StoreOptions(endpoints=("http://etcd.test",), prefix=prefix)
        async with opened_with(options) as store:
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="no address yet for the name etcd"):
                    await store.read()
            answered.set()
            await until_async(lambda: is_readable(store))
            assert asked == ["etcd.test"]

    try:
        run(main())
    finally:
        answered.set()


async def is_readable(store: Store) -> bool:
    try:
        return (await store.read()).revision >= 1
    except StoreUnavailableError:
        return False


def test_slow_store_is_waited_for_however_many_endpoints_there_are(
    etcd_http: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        port = int(etcd_http.endpoint.rpartition(":")[2])
        async with delayed(port, 1.1) as slow:
            options = StoreOptions(endpoints=(slow,) * 5, prefix=prefix)
            async with opened_with(options) as store:
                assert (await store.read()).revision >= 1

    run(main())


@asynccontextmanager
async def delayed(port: int, delay_s: float) -> AsyncIterator[str]:
    """A way to a port on which whatever the server says takes its time."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, pause_s: float
    ) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                await asyncio.sleep(pause_s)
                sink.write(data)
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        for task in (carry(reader, far_writer, 0.0), carry(far_reader, writer, delay_s)):
            tasks.add(asyncio.create_task(task))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
