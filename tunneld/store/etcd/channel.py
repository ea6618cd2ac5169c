"""A gRPC channel to one etcd endpoint that notices a dead peer, and whose end can be awaited.

Path of a lease: etcd -> **store.etcd.channel** -> `store.etcd.transport`.
The one place that reaches below grpclib's public face: it closes a connection without waiting
until TLS has said goodbye, which leaves an open socket behind when the loop ends right after.

Source: etcd `server/embed/config.go` (`GRPCKeepAliveMinTime`: pings no closer than 5 s).
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from grpclib.client import Channel, Handler
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol

PING_INTERVAL_S = 6.0
PING_TIMEOUT_S = 3.0

_GOODBYE_S = 1.0
_PINGS = Configuration(
    _keepalive_time=PING_INTERVAL_S,
    _keepalive_timeout=PING_TIMEOUT_S,
    _http2_max_pings_without_data=0,
    _http2_min_sent_ping_interval_without_data=PING_INTERVAL_S / 2,
)


class EtcdChannel(Channel):
    """Connects on its first use, and again whenever it has lost the connection."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port, ssl=tls, config=_PINGS)
        self._living: set[_Connection] = set()

    async def wait_closed(self) -> None:
        """Waits, after `close`, until every connection is gone, at most about a second."""
        endings = [connection.ended for connection in self._living]
        if not endings:
            return
        await asyncio.wait(endings, timeout=_GOODBYE_S)
        for connection in tuple(self._living):
            connection.abort()
        await asyncio.wait(endings, timeout=_GOODBYE_S)

    def _protocol_factory(self) -> H2Protocol:
        return _Connection(self._living, Handler(), self._config, self._h2_config)


class _Connection(H2Protocol):
    """One connection of a channel."""

    def __init__(self, living: set[_Connection], *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # handed on as grpclib made them
        self._living = living
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._living.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._living.discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        """Ends the connection without a goodbye."""
        self._transport.abort()
