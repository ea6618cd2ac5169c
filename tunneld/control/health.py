"""A small HTTP server for load balancers and kubelets: `/healthz` and `/readyz`.

Reads one request per connection and answers it; knows nothing of the daemon but the `Health` it is
handed. That it answers at all says that the event loop runs.

Source: flannel `main.go` (mustRunHealthz): paths, statuses and first lines of the replies.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tunneld.control.connections import Connections
from tunneld.errors import HostError, PortInUseError

REQUEST_S: Final = 5.0
MAX_REQUEST_BYTES: Final = 8192
MAX_CONNECTIONS: Final = 64

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How the daemon is, at the moment of the question."""

    ready: bool
    """The data path forwards and subnet.env is written."""
    state: str
    problems: tuple[str, ...] = ()
    """What is broken, a line each; anything here makes `/healthz` fail."""
    remarks: tuple[str, ...] = ()
    """What is not as it should be although the daemon is well: shown, and no failure."""
    waiting_for: tuple[str, ...] = ()
    """What `ready` waits for, a line each."""


class HealthServer:
    """Answers with what `probe` says."""

    def __init__(
        self, ip: IPv4Address | IPv6Address, port: int, probe: Callable[[], Health]
    ) -> None:
        self._ip = ip
        self._port = port
        self._probe = probe
        self._server: asyncio.Server | None = None
        self._connections = Connections(self._serve, limit=MAX_CONNECTIONS)

    @property
    def port(self) -> int:
        """The port listened on; of interest when 0, any free one, was asked for."""
        return self._port

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            PortInUseError: another program has the port.
            HostError: the address is not this host's.
        """
        try:
            self._server = await asyncio.start_server(
                self._connections.accept, str(self._ip), self._port, limit=MAX_REQUEST_BYTES
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"the health server cannot listen on {self._ip} port {self._port}: another"
                    f" program has it (see: ss -ltnp 'sport = :{self._port}'); stop that, or give"
                    " another --healthz-port"
                ) from error
            # The error's own text is asyncio's, with the address as Python writes it.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise HostError(
                f"the health server cannot listen on {self._ip} port {self._port}: {reason};"
                " expected an address of this host, and a port this user may bind: check"
                " --healthz-ip and --healthz-port"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stops listening and ends all connections."""
        if self._server is None:
            return
        self._server.close()
        await self._connections.close(patience_s=0.0)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_S):
            writer.write(await self._answer(reader))
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _version = head.split("\r\n", 1)[0].split(" ")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return _response(400, "the request is not HTTP", with_body=True)
        if method not in ("GET", "HEAD"):
            return _response(405, "only GET and HEAD are answered", with_body=True)
        status, body = self._page(target.split("?", 1)[0])
        return _response(status, body, with_body=method == "GET")

    def _page(self, path: str) -> tuple[int, str]:
        health = self._probe()
        match path:
            case "/healthz" if not health.problems:
                return 200, "\n".join(
                    ["flanneld is running", f"tunneld is {health.state}", *health.remarks]
                )
            case "/healthz":
                return 503, "\n".join(["flanneld is not healthy", *health.problems])
            case "/readyz" if health.ready:
                return 200, "\n".join(
                    ["flanneld is ready", f"tunneld is {health.state}", *health.remarks]
                )
            case "/readyz":
                return 503, "\n".join(["flanneld is not ready yet", *health.waiting_for])
            case _:
                return 404, "expected /healthz or /readyz"


def _response(status: int, body: str, *, with_body: bool) -> bytes:
    content = body.encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (content if with_body else b"")
