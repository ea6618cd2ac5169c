"""The health server, asked by a real HTTP client, and by things that are none."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from testbed.wait import PATIENCE
from tunneld.control.health import MAX_CONNECTIONS, Health, HealthServer
from tunneld.errors import HostError, PortInUseError

Run = Callable[[Coroutine[Any, Any, None]], None]

LOOPBACK = IPv4Address("127.0.0.1")
WELL = Health(ready=True, state="ready")


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[HealthServer]:
    server = HealthServer(LOOPBACK, 0, lambda: health)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def fetch(port: int, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10 * PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("health", "path", "status", "body"),
    [
        (WELL, "/healthz", 200, "flanneld is running\ntunneld is ready\n"),
        (WELL, "/healthz?verbose", 200, "flanneld is running\ntunneld is ready\n"),
        (WELL, "/readyz", 200, "flanneld is ready\ntunneld is ready\n"),
        (
            Health(ready=False, state="starting", waiting_for=("the store is away",)),
            "/readyz",
            503,
            "flanneld is not ready yet\nthe store is away\n",
        ),
        (
            Health(ready=False, state="starting", waiting_for=("the store is away",)),
            "/healthz",
            200,
            "flanneld is running\ntunneld is starting\n",
        ),
        (
            Health(ready=True, state="degraded", problems=("worker 0 has ended",)),
            "/healthz",
            503,
            "flanneld is not healthy\nworker 0 has ended\n",
        ),
        (
            Health(ready=True, state="degraded", remarks=("the log is not read",)),
            "/healthz",
            200,
            "flanneld is running\ntunneld is degraded\nthe log is not read\n",
        ),
        (WELL, "/", 404, "expected /healthz or /readyz\n"),
        (WELL, "/healthz/", 404, "expected /healthz or /readyz\n"),
    ],
)
def test_page_says_how_the_daemon_is(
    run: Run, health: Health, path: str, status: int, body: str
) -> None:
    async def check() -> None:
        async with serving(health) as server:
            assert await asyncio.to_thread(fetch, server.port, "GET", path) == (status, body)

    run(check())


def test_head_is_answered_without_a_body_and_post_is_refused(run: Run) -> None:
    async def check() -> None:
        async with serving(WELL) as server:
            assert await asyncio.to_thread(fetch, server.port, "HEAD", "/healthz") == (200, "")
            status, _ = await asyncio.to_thread(fetch, server.port, "POST", "/healthz")
            assert status == 405

    run(check())


@pytest.mark.parametrize("garbage", [b"\r\n\r\n", b"hello\r\n\r\n", b"x" * 20000, b"\xff" * 9000])
def test_what_is_no_http_gets_400_and_the_server_goes_on(run: Run, garbage: bytes) -> None:
    async def check() -> None:
        async with serving(WELL) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(garbage)
            assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            assert (await asyncio.to_thread(fetch, server.port, "GET", "/healthz"))[0] == 200

    run(check())


def test_silent_clients_do_not_keep_the_server_from_closing(run: Run) -> None:
    async def check() -> None:
        server = HealthServer(LOOPBACK, 0, lambda: WELL)
        await server.start()
        writers = [(await asyncio.open_connection("127.0.0.1", server.port))[1] for _ in range(10)]
        await asyncio.wait_for(server.close(), timeout=5 * PATIENCE)
        for writer in writers:
            writer.close()

    run(check())


def test_half_requests_shut_nobody_out(run: Run) -> None:
    async def check() -> None:
        async with serving(WELL) as server:
            halves = []
            for _ in range(3 * MAX_CONNECTIONS):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: ")
                halves.append(writer)
            answer = await asyncio.to_thread(fetch, server.port, "GET", "/healthz")
            assert answer == (200, "flanneld is running\ntunneld is ready\n")
            for writer in halves:
                writer.close()

    run(check())


def test_port_of_another_program_is_named(run: Run) -> None:
    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortInUseError, match=f"port {port}.*--healthz-port") as caught:
                await HealthServer(LOOPBACK, port, lambda: WELL).start()
        assert "\n" not in str(caught.value)

    run(check())


def test_address_of_another_host_is_refused(run: Run) -> None:
    async def check() -> None:
        with pytest.raises(HostError, match=r": Cannot assign requested address; .*--healthz-ip"):
            await HealthServer(IPv4Address("192.0.2.1"), 0, lambda: WELL).start()

    run(check())


def test_ipv6_loopback_is_served(run: Run) -> None:
    async def check() -> None:
        server = HealthServer(IPv6Address("::1"), 0, lambda: WELL)
        await server.start()
        reader, writer = await asyncio.open_connection("::1", server.port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await server.close()

    run(check())
