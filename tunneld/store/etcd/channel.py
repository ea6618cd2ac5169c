"""A gRPC channel to one etcd endpoint that notices a dead peer, and whose end can be awaited.

Path of a lease: etcd -> **store.etcd.channel** -> `store.etcd.transport`.
Connected means that etcd has said its first word. A name's addresses are tried beside each other,
and certificates are read anew for each connection. The one place that reaches below grpclib's
public face.

Source: etcd `server/embed/config.go` (`GRPCKeepAliveMinTime`: pings no closer than 5 s), gRPC
proposal A8 (fewer pings after `too_many_pings`; servers of others allow one in 5 minutes).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from grpclib.client import Channel, Handler
from grpclib.protocol import H2Protocol
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated

from tunneld.store.etcd.answers import IN_ORDER, ConnectError, in_words
from tunneld.store.etcd.race import Address, AllFailedError, Lookup, first

PING_INTERVAL_S = 10.0
"""A connection in use that has been silent for so long is asked whether somebody is there."""

PING_TIMEOUT_S = 8.0
CALM_INTERVAL_S = 330.0
LAST_INTERVAL_S = 3600.0

ADDRESS_TIMEOUT_S = 20.0
"""The longest an attempt at one address takes, from the first packet to etcd's first word."""

_GOODBYE_S = 1.0
_UNACKNOWLEDGED_MS = 10_000
"""Data the peer's kernel has not taken for so long means that there is no way to it any more."""
_TCP_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_TLS_RECORD = (b"\x15\x03", b"\x16\x03")

_log = logging.getLogger("tunneld.store")


class EtcdChannel(Channel):
    """Connects when asked to, and again whenever it has lost the connection."""

    def __init__(
        self,
        host: str,
        port: int,
        tls: Callable[[], ssl.SSLContext] | None,
        ping_interval_s: float = PING_INTERVAL_S,
    ) -> None:
        """`tls` reads the certificates, in a thread, for each connection."""
        self._read_tls = tls
        super().__init__(host, port, ssl=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls else None)
        self._lookup = Lookup(host, port)
        self._living: set[Connection] = set()
        self._stages: dict[str, str] = {}
        self._ping_interval_s = ping_interval_s

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, if only on its way out."""
        return bool(self._living)

    @property
    def is_connected(self) -> bool:
        """Whether a call can be made at once, from an address this host still has."""
        protocol = self._protocol
        if protocol is None or cast(Handler, protocol.handler).connection_lost:
            return False
        if cast(Connection, protocol).has_own_address:
            return True
        # No packet would come back; the system keeps it for a quarter of an hour.
        self.close()
        return False

    def waits_for(self) -> str:
        """Returns what an attempt to connect is at, in words."""
        return ", ".join(f"{stage} {name}".strip() for name, stage in self._stages.items())

    async def connect(self) -> None:
        """Returns once there is a connection.

        Raises:
            ConnectError, OSError: there is none; says of each address why.
            StoreRefusedError: the certificates cannot be read.
        """
        await self.__connect__()

    def close(self) -> None:
        """Ends the connection; the next `connect` makes a new one."""
        super().close()
        self._protocol = None

    async def wait_closed(self) -> None:
        """Waits, after `close`, until every connection is gone, at most about a second."""
        endings = [connection.ended for connection in self._living]
        if not endings:
            return
        await asyncio.wait(endings, timeout=_GOODBYE_S)
        for connection in tuple(self._living):
            connection.abort()
        await asyncio.wait(endings, timeout=_GOODBYE_S)

    async def _create_connection(self) -> H2Protocol:
        self._stages = {self._host: "no address yet for the name"}
        try:
            addresses = await self._lookup.addresses()
            self._stages = {}
            tls = None if self._read_tls is None else await asyncio.to_thread(self._read_tls)
            return await first(
                [partial(self._reach, address, tls) for address in addresses],
                discard=Connection.abort,
            )
        except AllFailedError as error:
            raise _in_one(addresses, error.causes) from error
        finally:
            self._stages = {}

    async def _reach(self, address: Address, tls: ssl.SSLContext | None) -> Connection:
        name = str(address)
        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT_S):
                self._stages[name] = "no connection to"
                opened = await _opened(address)
                self._stages[name] = "no TLS with" if tls else "no answer from"
                _, protocol = await self._loop.create_connection(
                    self._protocol_factory,
                    sock=opened,
                    ssl=tls,
                    server_hostname=self._host if tls else None,
                )
                connection = cast(Connection, protocol)
                self._stages[name] = "no answer from"
                try:
                    await asyncio.shield(connection.greeted)
                except BaseException:
                    connection.abort()
                    raise
        except TimeoutError as error:
            text = f"{self._stages[name]} {name} within {ADDRESS_TIMEOUT_S:g} s"
            raise ConnectError(text, error) from error
        return connection

    def _protocol_factory(self) -> H2Protocol:
        return Connection(self, Handler(), self._config, self._h2_config)

    def living(self) -> set[Connection]:
        """The connections that have not ended."""
        return self._living

    @property
    def ping_interval_s(self) -> float:
        """After how much silence a connection in use is asked for a sign of life."""
        return self._ping_interval_s

    def calm_down(self) -> None:
        """The server takes our pings for too many: from now on there are fewer."""
        self._ping_interval_s = min(
            max(2 * self._ping_interval_s, CALM_INTERVAL_S), LAST_INTERVAL_S
        )
        _log.info(
            "etcd asks for fewer pings; it gets them",
            extra={
                "fields": {
                    "endpoint": f"{self._host}:{self._port}",
                    "wait_s": self._ping_interval_s,
                }
            },
        )


class Connection(H2Protocol):
    """One connection of a channel."""

    def __init__(self, channel: EtcdChannel, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # handed on as grpclib made them
        self._channel = channel
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self.greeted: asyncio.Future[None] = loop.create_future()
        """Done once the server has said something that is HTTP/2."""
        self.greeted.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._heard_at_s = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._reason: str | None = None

    @property
    def has_own_address(self) -> bool:
        """Whether this host still has the address the connection was made from."""
        own = self._transport.get_extra_info("socket")
        if own is None:
            return True
        try:
            with socket.socket(own.family, socket.SOCK_STREAM) as probe:
                probe.bind((own.getsockname()[0], 0, *own.getsockname()[2:]))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
        return True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._channel.living().add(self)
        super().connection_made(transport)
        self.processor.processors[ConnectionTerminated] = self._dismissed
        self._look_after(self._channel.ping_interval_s, self._ask)

    def data_received(self, data: bytes) -> None:
        self._heard_at_s = self._loop.time()
        if not self.greeted.done():
            stranger = _stranger(data)
            if stranger is not None:
                self.greeted.set_exception(ConnectError(stranger))
                self.abort()
                return
        try:
            super().data_received(data)
        except Exception as error:
            # What the libraries beneath did not expect of a server ends this connection only.
            self._end(f"the server said what nobody can read: {type(error).__name__}: {error}")
            self.abort()
            return
        if not self.greeted.done():
            self.greeted.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        # TLS 1.3 refuses a client after the handshake: the reason is in here, and nowhere else.
        cause = exc if isinstance(exc, Exception) else None
        if not self.greeted.done():
            self.greeted.set_exception(
                cause or ConnectError("the other side ended the connection without a word")
            )
        if self._timer is not None:
            self._timer.cancel()
        self._end(in_words(cause) if cause else "the connection was lost")
        self._channel.living().discard(self)
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self) -> None:
        """Ends the connection without a goodbye."""
        self._transport.abort()

    def _end(self, reason: str) -> None:
        # Whoever waits is told why it began to end, not how.
        self._reason = self._reason or reason
        self.processor.close(self._reason)

    def _dismissed(self, event: ConnectionTerminated) -> None:
        """Follows a GOAWAY; what was under way begins anew on another connection."""
        words = (event.additional_data or b"").decode("ascii", "replace")
        if event.error_code == ErrorCodes.ENHANCE_YOUR_CALM:
            self._channel.calm_down()
        elif event.error_code != ErrorCodes.NO_ERROR:
            self._end(f"the server ended the connection: {event.error_code!s} {words}".rstrip())
            return
        self._end(IN_ORDER)

    def _look_after(self, wait_s: float, what: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(wait_s, what)

    def _ask(self) -> None:
        """Sends a ping where somebody waits for something and nothing has come for long."""
        if self._transport.is_closing():
            return
        interval_s = self._channel.ping_interval_s
        silent_s = self._loop.time() - self._heard_at_s
        if silent_s < interval_s:
            self._look_after(interval_s - silent_s, self._ask)
        elif not self.processor.streams:
            self._look_after(interval_s, self._ask)
        else:
            self.connection._connection.ping(b"tunneld.")
            self.connection.flush()
            asked_at_s = self._loop.time()
            self._look_after(PING_TIMEOUT_S, lambda: self._expect_answer(asked_at_s))

    def _expect_answer(self, asked_at_s: float) -> None:
        if self._heard_at_s >= asked_at_s:
            self._look_after(self._channel.ping_interval_s, self._ask)
        else:
            self._end(f"no answer within {PING_TIMEOUT_S:g} s to a ping")
            self.abort()


def _in_one(addresses: Sequence[Address], causes: Sequence[Exception]) -> Exception:
    """Returns one error for those of several addresses; the most telling one is its cause."""
    if len(causes) == 1:
        return causes[0]
    telling = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    words = (
        in_words(cause) if isinstance(cause, ConnectError) else f"{address}: {in_words(cause)}"
        for address, cause in zip(addresses, causes, strict=False)
    )
    return ConnectError("; ".join(words) or "its name has no address", telling)


def _stranger(data: bytes) -> str | None:
    """Returns what the other side speaks, when that is not HTTP/2 where we expect it."""
    if data.startswith(_TLS_RECORD):
        return "the other side speaks TLS: write https://"
    if data.startswith(b"HTTP/1"):
        return "the other side speaks HTTP/1, no gRPC: no etcd with API v3, or one by https://"
    return None


async def _opened(address: Address) -> socket.socket:
    opened = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_KEEPALIVE:
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        await _connected(opened, address)
        # Not before: it would bound the handshake too, which a slow way may take longer for.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    except BaseException:
        opened.close()
        raise
    return opened


async def _connected(opened: socket.socket, address: Address) -> None:
    """Connects a socket that does not block, without a thread.

    uvloop's own call looks the address up again, by threads of libuv, which ends the process where
    the kernel gives none.
    """
    code = opened.connect_ex(address.sockaddr)
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        decided = asyncio.Event()
        loop.add_writer(opened.fileno(), decided.set)
        try:
            await decided.wait()
        finally:
            loop.remove_writer(opened.fileno())
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
