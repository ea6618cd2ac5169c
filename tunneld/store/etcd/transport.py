"""Carries calls to one of several etcd endpoints: connecting, failing over, renewing tokens.

Path of a lease: etcd -> **store.etcd.transport** -> `store.etcd.client` -> `store.etcd.store`.
One channel per endpoint. All are tried beside each other, with a head start, when there is no
connection; a call that finds no answer moves on to another endpoint.
Knows TLS, tokens and time limits; knows no request by name.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from tunneld.errors import StoreError, StoreRefusedError, StoreUnavailableError, UsageError
from tunneld.store.etcd.answers import (
    IN_ORDER,
    ConnectError,
    Credentials,
    in_words,
    is_auth_off,
    is_final,
    translated,
    unavailable,
)
from tunneld.store.etcd.channel import PING_INTERVAL_S, EtcdChannel
from tunneld.store.etcd.race import AllFailedError, first
from tunneld.store.proto.etcd_grpc import AuthStub
from tunneld.store.proto.etcd_pb2 import AuthenticateRequest

__all__ = ["Credentials", "EndedInOrderError", "Endpoint", "Transport", "parse_endpoint"]

Request = TypeVar("Request")
Response = TypeVar("Response")

DEFAULT_PORT = 2379

CONNECT_TIMEOUT_S = 10.0
"""The longest a call waits for a connection. Attempts go on, and the next call waits on."""

ANSWER_TIMEOUT_S = 10.0
"""The longest a call waits for the answer of one endpoint, however many there are."""

CALL_TIMEOUT_S = 20.0
"""The longest a call takes, all endpoints together."""

ENDPOINT_HEAD_START_S = 0.5

_NO_ANSWER = (OSError, StreamTerminatedError, ProtocolError, TimeoutError, ConnectError)

_log = logging.getLogger("tunneld.store")


class EndedInOrderError(StoreUnavailableError):
    """The server ended the connection, and not because anything is wrong: begin again at once."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an etcd listens."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def parse_endpoint(url: str) -> Endpoint:
    """Returns an endpoint of `http://host:port`, `https://host:port` or `host:port`.

    Raises:
        UsageError: it is none of these.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    is_plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    if parts.scheme not in ("http", "https") or not host or not is_plain:
        raise UsageError(
            f"etcd endpoint {url!r} is not usable: expected http://host:port or "
            "https://host:port; correct the endpoint"
        )
    return Endpoint(host, port or DEFAULT_PORT, parts.scheme == "https")


class Transport:
    """Channels to the endpoints of one etcd cluster."""

    def __init__(self, endpoints: Sequence[Endpoint], credentials: Credentials) -> None:
        self._endpoints = tuple(endpoints)
        self._credentials = credentials
        self._channels: dict[Endpoint, EtcdChannel] = {}
        self._retired: list[EtcdChannel] = []
        self._ping_intervals_s: dict[Endpoint, float] = {}
        self._tokens: dict[Endpoint, str | None] = {}
        """None: etcd has no users."""
        self._is_auth_off = False
        self._current = 0
        self._connecting: asyncio.Task[Endpoint] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint the next call goes to."""
        return self._endpoints[self._current]

    async def call(
        self,
        method: Callable[[Channel], UnaryUnaryMethod[Request, Response]],
        request: Request,
        doing: str,
    ) -> Response:
        """Sends one request, at one endpoint after another until one answers.

        Args:
            method: of a stub.
            request: its message.
            doing: what that does, for the error of a user who may not.

        Raises:
            GRPCError: etcd answered that the request itself cannot be done.
            StoreUnavailableError: no endpoint answered in time.
            StoreRefusedError: our certificate, user or password is not taken, or etcd's not by us.
            StoreFullError: etcd has no room left.
        """

        async def send(channel: Channel, metadata: Mapping[str, str]) -> Response:
            return await method(channel)(request, metadata=dict(metadata))

        return await self._attempt(send, doing)

    async def exchange(
        self,
        method: Callable[[Channel], StreamStreamMethod[Request, Response]],
        request: Request,
        doing: str,
    ) -> Response | None:
        """Sends one request on a stream of its own and returns the first answer, as `call`."""

        async def send(channel: Channel, metadata: Mapping[str, str]) -> Response | None:
            async with method(channel).open(metadata=dict(metadata)) as stream:
                # etcd's gRPC proxy forgets who asked once its stream has ended: first the answer.
                await stream.send_message(request)
                answer = await stream.recv_message()
                if answer is not None:
                    await stream.cancel()
                return answer

        return await self._attempt(send, doing)

    @asynccontextmanager
    async def stream(
        self, method: Callable[[Channel], StreamStreamMethod[Request, Response]], doing: str
    ) -> AsyncIterator[Stream[Request, Response]]:
        """Opens a stream at the current endpoint; when it fails, the next goes elsewhere.

        Raises:
            EndedInOrderError: the server ended it without a fault; it may begin again at once.
            GRPCError, StoreUnavailableError, StoreRefusedError: as `call`.
        """
        endpoint = await self._connected(CONNECT_TIMEOUT_S)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                metadata = await self._metadata(endpoint)
            # Without a leader a watch would stay silent for ever instead of ending.
            metadata["hasleader"] = "true"
            async with method(self._channel(endpoint)).open(metadata=metadata) as stream:
                yield stream
        except (GRPCError, *_NO_ANSWER) as error:
            raise self._failed(endpoint, error, doing) from error

    def reconnect(self) -> None:
        """Closes all connections; the next attempt at each endpoint makes a new one.

        It does not wait for one that is being made, from an address that may be gone.
        """
        self._give_up_connecting()
        for channel in self._channels.values():
            channel.close()
        self._retired = [one for one in self._retired if one.is_open] + [*self._channels.values()]
        self._ping_intervals_s |= {
            endpoint: channel.ping_interval_s for endpoint, channel in self._channels.items()
        }
        self._channels = {}

    async def close(self) -> None:
        """Closes all connections."""
        connecting = self._connecting
        self.reconnect()
        if connecting is not None:
            await asyncio.gather(connecting, return_exceptions=True)
        for channel in self._retired:
            await channel.wait_closed()

    async def _attempt(
        self, send: Callable[[Channel, Mapping[str, str]], Awaitable[Response]], doing: str
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_TIMEOUT_S
        failure: StoreError | None = None
        # Once more than there are: a connection that died unseen, or a token that has become old,
        # costs the first attempt at an endpoint and not the call.
        for _ in range(len(self._endpoints) + 1):
            left_s = deadline - loop.time()
            if failure is not None and (left_s <= 0 or is_final(failure)):
                break
            endpoint = await self._connected(min(CONNECT_TIMEOUT_S, left_s))
            left_s = max(deadline - loop.time(), 0.0)
            try:
                async with asyncio.timeout(min(ANSWER_TIMEOUT_S, left_s)):
                    metadata = await self._metadata(endpoint)
                    return await send(self._channel(endpoint), metadata)
            except (GRPCError, *_NO_ANSWER) as error:
                failure = self._failed(endpoint, error, doing)
        raise failure or unavailable(str(self.endpoint), "no time left")

    async def _connected(self, wait_s: float) -> Endpoint:
        """Returns an endpoint there is a connection to, the current one if there is.

        All calls wait for one task, which outlives those who lose their patience.

        Raises:
            StoreUnavailableError, StoreRefusedError: there is none; says of each endpoint why.
        """
        if self._channel(self.endpoint).is_connected:
            return self.endpoint
        task = self._connecting
        if task is None:
            task = self._connecting = asyncio.create_task(self._connect())
            task.add_done_callback(self._connecting_ended)
        try:
            async with asyncio.timeout(wait_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise self._still_waiting(wait_s) from None
        except asyncio.CancelledError:
            ourselves = asyncio.current_task()
            if not task.cancelled() or (ourselves is not None and ourselves.cancelling()):
                raise
            # It was given up by `reconnect`, not we by whoever called us.
            raise unavailable(str(self.endpoint), "its connection was given up") from None

    async def _connect(self) -> Endpoint:
        order = [*self._endpoints[self._current :], *self._endpoints[: self._current]]
        try:
            endpoint = await first(
                [partial(self._reach, one) for one in order], ENDPOINT_HEAD_START_S
            )
        except AllFailedError as error:
            raise self._all_failed(order, error.causes) from error
        self._current = self._endpoints.index(endpoint)
        return endpoint

    async def _reach(self, endpoint: Endpoint) -> Endpoint:
        await self._channel(endpoint).connect()
        return endpoint

    def _connecting_ended(self, task: asyncio.Task[Endpoint]) -> None:
        if self._connecting is task:
            self._connecting = None
        if not task.cancelled():
            task.exception()  # nobody may be left to take it

    def _give_up_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def _still_waiting(self, wait_s: float) -> StoreError:
        stages = {one: channel.waits_for() for one, channel in self._channels.items()}
        return self._in_one(
            [(one, f"{stage} within {wait_s:.0f} s") for one, stage in stages.items() if stage]
            or [(self.endpoint, f"no connection within {wait_s:.0f} s")]
        )

    def _all_failed(self, order: Sequence[Endpoint], causes: Sequence[Exception]) -> StoreError:
        failures = [
            translated(str(one), cause, self._credentials, doing="connect", limit_s=0)
            for one, cause in zip(order, causes, strict=False)
        ]
        refused = next((one for one in failures if isinstance(one, StoreRefusedError)), None)
        if refused is not None or len(failures) == 1:
            return refused or failures[0]
        return self._in_one(
            [(one, in_words(cause)) for one, cause in zip(order, causes, strict=False)]
        )

    def _in_one(self, causes: Sequence[tuple[Endpoint, str]]) -> StoreError:
        (endpoint, cause), *others = causes
        more = "".join(f"; at {one}: {words}" for one, words in others)
        return unavailable(str(endpoint), f"{cause}{more}")

    def _failed(self, endpoint: Endpoint, error: Exception, doing: str) -> StoreError:
        """Makes the next attempt go elsewhere; an answer to the request itself is raised."""
        if isinstance(error, StreamTerminatedError) and str(error) == IN_ORDER:
            return EndedInOrderError(str(unavailable(str(endpoint), IN_ORDER)))
        if isinstance(error, TimeoutError) and endpoint in self._channels:
            # A peer that vanished without a word keeps a connection alive for a quarter of an hour.
            self._channels[endpoint].close()
        self._tokens.pop(endpoint, None)
        failure = translated(
            str(endpoint), error, self._credentials, doing=doing, limit_s=ANSWER_TIMEOUT_S
        )
        self._rotate(endpoint)
        return failure

    def _rotate(self, endpoint: Endpoint) -> None:
        # Another task may have moved on already.
        if self.endpoint == endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def _channel(self, endpoint: Endpoint) -> EtcdChannel:
        if endpoint not in self._channels:
            tls = partial(read_tls, self._credentials) if endpoint.is_tls else None
            interval_s = self._ping_intervals_s.get(endpoint, PING_INTERVAL_S)
            self._channels[endpoint] = EtcdChannel(endpoint.host, endpoint.port, tls, interval_s)
        return self._channels[endpoint]

    async def _metadata(self, endpoint: Endpoint) -> dict[str, str]:
        """Returns the token for an endpoint, asking for one when there is none."""
        name, password_file = self._credentials.username, self._credentials.password_file
        if name is None or password_file is None:
            return {}
        if endpoint not in self._tokens:
            try:
                password = (await asyncio.to_thread(password_file.read_text)).strip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise StoreRefusedError(
                    f"password file {password_file} cannot be read: {error}; "
                    "name a file that holds the password of the etcd user"
                ) from error
            self._tokens[endpoint] = await self._token(
                endpoint, AuthenticateRequest(name=name, password=password)
            )
        token = self._tokens[endpoint]
        return {} if token is None else {"token": token}

    async def _token(self, endpoint: Endpoint, request: AuthenticateRequest) -> str | None:
        try:
            answer = await AuthStub(self._channel(endpoint)).Authenticate(request)
        except GRPCError as error:
            if not is_auth_off(error):
                raise
            if not self._is_auth_off:
                self._is_auth_off = True
                _log.info(
                    "etcd has authentication off; going on without the user",
                    extra={"fields": {"endpoint": str(endpoint)}},
                )
            return None
        self._is_auth_off = False
        return answer.token


def read_tls(credentials: Credentials) -> ssl.SSLContext:
    """Reads the certificates as they are now; blocks.

    Raises:
        StoreRefusedError: they cannot be loaded; names the files.
    """
    try:
        context = ssl.create_default_context(cafile=credentials.cafile)
        if credentials.certfile is not None:
            # Without a password of ours OpenSSL would ask for one, on whatever terminal there is.
            context.load_cert_chain(credentials.certfile, credentials.keyfile, password="")
    except (OSError, ValueError) as error:
        files = [credentials.cafile, credentials.certfile, credentials.keyfile]
        named = ", ".join(str(file) for file in files if file is not None)
        raise StoreRefusedError(
            f"TLS files for etcd cannot be loaded ({named}): {error}; expected PEM files, the key "
            "without a password"
        ) from error
    context.set_alpn_protocols(["h2"])
    return context
