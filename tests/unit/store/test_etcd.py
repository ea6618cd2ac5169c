"""What only a server can do to us: go away, hang, forget, come back as another, refuse."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import (
    Authority,
    EtcdServer,
    Follower,
    free_port,
    run,
    until,
)
from tests.unit.store.opened import B, claim_of, opened
from tunneld.errors import StoreRefusedError, StoreUnavailableError, UsageError
from tunneld.lease.model import ConfigPut
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions, open_store
from tunneld.store.etcd import client
from tunneld.store.etcd.transport import Credentials, Endpoint, Transport, parse_endpoint

BOUND_S = 30.0
"""For what ends after 5 s, on a machine that has more to do."""


@asynccontextmanager
async def opened_with(options: StoreOptions) -> AsyncIterator[Store]:
    store = open_store(options)
    try:
        yield store
    finally:
        await store.close()


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
    monkeypatch.setattr(client, "PAGE_SIZE", 2)
    for number in range(6):
        etcd_http.put(f"{prefix}/subnets/10.5.{number}.0-24", b'{"PublicIP":"192.0.2.1"}')

    async def main() -> None:
        transport = Transport([parse_endpoint(etcd_http.endpoint)], Credentials())
        real = transport.call

        async def call(method: Any, request: Any) -> Any:
            answer = await real(method, request)
            etcd_http.put(f"{prefix}/subnets/10.5.5.0-24", b'{"PublicIP":"192.0.2.66"}')
            return answer

        monkeypatch.setattr(transport, "call", call)
        try:
            moment, entries = await client.EtcdClient(transport).list(f"{prefix}/")
        finally:
            await transport.close()
        assert [entry.value for entry in entries] == [b'{"PublicIP":"192.0.2.1"}'] * 6
        assert max(entry.mod_revision for entry in entries) == moment.revision

    run(main())


def hold_back(store: Store) -> asyncio.Event:
    """Keeps the next watch of a store from opening until the event is set."""
    client = store._client  # type: ignore[attr-defined]
    real = client.watch
    released = asyncio.Event()

    async def watch(root: str, start_revision: int) -> AsyncIterator[object]:
        await released.wait()
        async for news in real(root, start_revision):
            yield news

    client.watch = watch
    return released


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
                await until(lambda: not store.status().connected, 25)
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


def test_call_moves_on_from_a_dead_endpoint(etcd_http: EtcdServer, prefix: str) -> None:
    async def main() -> None:
        dead = f"http://127.0.0.1:{free_port()}"
        options = StoreOptions(endpoints=(dead, etcd_http.endpoint), prefix=prefix)
        async with opened_with(options) as store:
            await store.write_config("{}")
            assert store.status().endpoint == etcd_http.endpoint
            async with Follower(store) as follower:
                assert follower.snapshots[0].config == "{}"

    run(main())


def test_error_names_endpoint_and_cause(prefix: str) -> None:
    dead = f"http://127.0.0.1:{free_port()}"

    async def main() -> None:
        async with opened_with(StoreOptions(endpoints=(dead,), prefix=prefix)) as store:
            with pytest.raises(StoreUnavailableError, match="refused") as caught:
                await store.grant(60)
            assert dead in str(caught.value)
            assert "\n" not in str(caught.value)
            assert store.status().connected is False
            assert store.status().problem == str(caught.value)

    run(main())


def test_certificate_of_another_authority_is_refused(
    etcd_https: EtcdServer, prefix: str, tmp_path: Path
) -> None:
    stranger = Authority.make(tmp_path / "other")

    async def main() -> None:
        options = replace(etcd_https.options(prefix), cafile=stranger.cafile)
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match="name the CA"):
                await store.read()

    run(main())


def test_system_roots_do_not_vouch_for_a_private_authority(
    etcd_https: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        options = replace(etcd_https.options(prefix), cafile=None)
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match="name the CA"):
                await store.read()

    run(main())


def test_certificate_for_another_address_is_refused(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    directory = tmp_path_factory.mktemp("etcd-name")
    server = EtcdServer(directory, Authority.make(directory / "tls"))
    server.start()

    async def main() -> None:
        options = server.options(prefix)
        elsewhere = tuple(url.replace("127.0.0.1", "localhost") for url in options.endpoints)
        async with opened_with(replace(options, endpoints=elsewhere)) as store:
            with pytest.raises(StoreRefusedError, match="localhost"):
                await store.read()

    try:
        run(main())
    finally:
        server.stop()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wrong_scheme_is_an_error_and_no_hang(
    scheme: str, etcd_http: EtcdServer, etcd_https: EtcdServer, prefix: str
) -> None:
    server = etcd_https if scheme == "http" else etcd_http
    endpoint = f"{scheme}://{server.endpoint.partition('://')[2]}"

    async def main() -> None:
        options = StoreOptions(endpoints=(endpoint,), prefix=prefix)
        async with opened_with(options) as store:
            with pytest.raises(StoreUnavailableError, match="http or https"):
                await store.read()

    run(main())


def test_missing_ca_file_is_refused_by_name(prefix: str, tmp_path: Path) -> None:
    async def main() -> None:
        options = StoreOptions(
            endpoints=("https://127.0.0.1:1",), prefix=prefix, cafile=tmp_path / "none.crt"
        )
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match=r"none\.crt"):
                await store.read()

    run(main())


def test_user_reads_its_prefix_and_nothing_else(etcd: EtcdServer, tmp_path: Path) -> None:
    for argv in (
        ("user", "add", "root:rootpw"),
        ("role", "add", "root"),
        ("user", "grant-role", "root", "root"),
        ("role", "add", "net"),
        ("role", "grant-permission", "net", "readwrite", "--prefix=true", "/net/"),
        ("user", "add", "tunneld:right"),
        ("user", "grant-role", "tunneld", "net"),
        ("auth", "enable"),
    ):
        etcd.ctl(*argv)
    etcd.user = "root:rootpw"
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("right\n")
    wrong.write_text("wrong\n")
    options = replace(etcd.options("/net"), username="tunneld", password_file=right)

    async def main() -> None:
        async with opened_with(options) as store:
            await store.write_config("{}")
            async with Follower(store) as follower:
                await asyncio.to_thread(crash_and_restart, etcd)
                # Makes etcd forget every token it gave.
                etcd.ctl("auth", "disable")
                etcd.ctl("auth", "enable")
                await store.write_config('{"a":1}')
                await until(lambda: follower.events == [ConfigPut('{"a":1}')])
        for bad in (
            replace(options, password_file=wrong),
            replace(options, username=None, password_file=None),
            replace(options, prefix="/other"),
        ):
            async with opened_with(bad) as store:
                with pytest.raises(StoreRefusedError, match="user"):
                    await store.read()
                assert "right" not in str(store.status())
        async with opened_with(replace(options, password_file=tmp_path / "none")) as store:
            with pytest.raises(StoreRefusedError, match="password file"):
                await store.read()

    run(main())


def crash_and_restart(etcd: EtcdServer) -> None:
    etcd.kill()
    etcd.start()


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:2379", Endpoint("127.0.0.1", 2379, is_tls=False)),
        ("https://etcd.example:443/", Endpoint("etcd.example", 443, is_tls=True)),
        ("192.0.2.1:4001", Endpoint("192.0.2.1", 4001, is_tls=False)),
        ("http://[fd00::1]:2379", Endpoint("fd00::1", 2379, is_tls=False)),
        ("https://etcd.example", Endpoint("etcd.example", 2379, is_tls=True)),
    ],
)
def test_endpoint_is_read_from_its_url(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "url",
    ["", "ftp://192.0.2.1", "http://", "http://h:99999", "http://h/path", "http://u:p@h:1"],
)
def test_text_that_is_no_endpoint_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="etcd endpoint"):
        parse_endpoint(url)


@pytest.mark.parametrize(
    "options",
    [
        StoreOptions(kind="sqlite"),
        StoreOptions(endpoints=()),
        StoreOptions(certfile=Path("c.crt")),
        StoreOptions(username="u"),
    ],
)
def test_options_that_do_not_fit_together_are_a_usage_error(options: StoreOptions) -> None:
    with pytest.raises(UsageError):
        open_store(options)


def test_nothing_of_a_closed_store_is_left_open(etcd_https: EtcdServer, prefix: str) -> None:
    def open_sockets() -> int:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(
            os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link)
        )

    async def main() -> None:
        async with opened(etcd_https, prefix) as store:
            await store.read()
        before = open_sockets()
        for _ in range(5):
            async with opened(etcd_https, prefix) as store, Follower(store):
                await store.read()
        assert open_sockets() == before

    run(main())
