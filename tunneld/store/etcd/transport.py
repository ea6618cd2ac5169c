"""Carries calls to one of several etcd endpoints: connecting, failing over, translating errors.

Path of a lease: etcd -> **store.etcd.transport** -> `store.etcd.client` -> `store.etcd.store`.
One channel per endpoint; a call that finds no answer moves on to the next endpoint.
Knows TLS, tokens and time limits; knows no request by name.

Source: etcd `server/etcdserver/api/v3rpc/rpctypes/error.go` (messages).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from tunneld.errors import StoreError, StoreRefusedError, StoreUnavailableError, UsageError
from tunneld.store.etcd.channel import EtcdChannel
from tunneld.store.proto.etcd_grpc import AuthStub
from tunneld.store.proto.etcd_pb2 import AuthenticateRequest

Request = TypeVar("Request")
Response = TypeVar("Response")

DEFAULT_PORT = 2379
CALL_TIMEOUT_S = 5.0
"""The longest a call takes, all endpoints together."""

_ROUNDS = 2
"""A connection that died unseen costs the first attempt at an endpoint, not the call."""
_ROUND_PAUSE_S = 0.1

_NO_ANSWER = (OSError, StreamTerminatedError, ProtocolError, TimeoutError)
_TRY_ELSEWHERE = (
    Status.UNAVAILABLE,
    Status.DEADLINE_EXCEEDED,
    Status.UNKNOWN,
    Status.INTERNAL,
    Status.CANCELLED,
    Status.UNIMPLEMENTED,
    Status.RESOURCE_EXHAUSTED,
)
_REFUSED = (
    "authentication failed",
    "user name is empty",
    "permission denied",
    "auth token",
    "auth store is old",
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an etcd listens."""

    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What proves us to etcd and etcd to us."""

    keyfile: Path | None = None
    certfile: Path | None = None
    cafile: Path | None = None
    username: str | None = None
    password_file: Path | None = None


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

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        credentials: Credentials,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self.timeout_s = timeout_s
        self._endpoints = tuple(endpoints)
        self._credentials = credentials
        self._channels: dict[Endpoint, EtcdChannel] = {}
        self._tokens: dict[Endpoint, str] = {}
        self._current = 0

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint the next call goes to."""
        return self._endpoints[self._current]

    async def call(
        self,
        method: Callable[[Channel], UnaryUnaryMethod[Request, Response]],
        request: Request,
    ) -> Response:
        """Sends one request, at each endpoint in turn until one answers.

        Raises:
            GRPCError: etcd answered that the request itself cannot be done.
            StoreUnavailableError: no endpoint answered in time.
            StoreRefusedError: our certificate, user or password is not taken, or etcd's not by us.
        """

        async def send(channel: Channel, metadata: Mapping[str, str]) -> Response:
            return await method(channel)(request, metadata=dict(metadata))

        return await self._attempt(send)

    async def exchange(
        self,
        method: Callable[[Channel], StreamStreamMethod[Request, Response]],
        request: Request,
    ) -> Response | None:
        """Sends one request on a stream of its own and returns the first answer, as `call`."""

        async def send(channel: Channel, metadata: Mapping[str, str]) -> Response | None:
            async with method(channel).open(metadata=dict(metadata)) as stream:
                await stream.send_message(request, end=True)
                return await stream.recv_message()

        return await self._attempt(send)

    @asynccontextmanager
    async def stream(
        self, method: Callable[[Channel], StreamStreamMethod[Request, Response]]
    ) -> AsyncIterator[Stream[Request, Response]]:
        """Opens a stream at the current endpoint; when it fails, the next goes elsewhere.

        Raises:
            GRPCError, StoreUnavailableError, StoreRefusedError: as `call`.
        """
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(self.timeout_s):
                metadata = await self._metadata(endpoint)
            # Without a leader a watch would stay silent for ever instead of ending.
            metadata["hasleader"] = "true"
            async with method(self._channel(endpoint)).open(metadata=metadata) as stream:
                yield stream
        except (GRPCError, *_NO_ANSWER) as error:
            raise self._failed(endpoint, error) from error

    async def close(self) -> None:
        """Closes all connections."""
        for channel in self._channels.values():
            channel.close()
        for channel in self._channels.values():
            await channel.wait_closed()

    async def _attempt(
        self, send: Callable[[Channel, Mapping[str, str]], Awaitable[Response]]
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_s
        share_s = self.timeout_s / len(self._endpoints)
        failure: StoreError = _unavailable(self.endpoint, "no time left")
        for attempt in range(_ROUNDS * len(self._endpoints)):
            if attempt and attempt % len(self._endpoints) == 0:
                await asyncio.sleep(_ROUND_PAUSE_S)
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            endpoint = self.endpoint
            try:
                async with asyncio.timeout(min(share_s, left_s)):
                    metadata = await self._metadata(endpoint)
                    return await send(self._channel(endpoint), metadata)
            except (GRPCError, *_NO_ANSWER) as error:
                failure = self._failed(endpoint, error)
        raise failure

    def _failed(self, endpoint: Endpoint, error: Exception) -> StoreError:
        """Makes the next attempt go elsewhere; an answer to the request itself is raised."""
        if isinstance(error, TimeoutError) and endpoint in self._channels:
            # A peer that vanished without a word keeps a connection alive for a quarter of an hour.
            self._channels[endpoint].close()
        failure = _translated(endpoint, error, self.timeout_s)
        self._tokens.pop(endpoint, None)
        self._rotate(endpoint)
        return failure

    def _rotate(self, endpoint: Endpoint) -> None:
        # Another task may have moved on already.
        if self.endpoint == endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def _channel(self, endpoint: Endpoint) -> EtcdChannel:
        if endpoint not in self._channels:
            tls = _tls_context(self._credentials) if endpoint.is_tls else None
            self._channels[endpoint] = EtcdChannel(endpoint.host, endpoint.port, tls)
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
            request = AuthenticateRequest(name=name, password=password)
            answer = await AuthStub(self._channel(endpoint)).Authenticate(request)
            self._tokens[endpoint] = answer.token
        return {"token": self._tokens[endpoint]}


def _tls_context(credentials: Credentials) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=credentials.cafile)
        if credentials.certfile is not None:
            context.load_cert_chain(credentials.certfile, credentials.keyfile)
    except OSError as error:
        files = [credentials.cafile, credentials.certfile, credentials.keyfile]
        named = ", ".join(str(file) for file in files if file is not None)
        raise StoreRefusedError(
            f"TLS files for etcd cannot be loaded ({named}): {error}; expected PEM files"
        ) from error
    context.set_alpn_protocols(["h2"])
    return context


def _translated(endpoint: Endpoint, error: Exception, timeout_s: float) -> StoreError:
    match error:
        case GRPCError(status=status):
            message = error.message or status.name
            is_refused = status in (Status.UNAUTHENTICATED, Status.PERMISSION_DENIED) or any(
                text in message for text in _REFUSED
            )
            if is_refused:
                return _refused(endpoint, message, "check the etcd user, its password and roles")
            if status not in _TRY_ELSEWHERE:
                raise error
            return _unavailable(endpoint, message)
        case ssl.SSLCertVerificationError():
            return _refused(
                endpoint, error.verify_message, "name the CA that signed etcd's certificate"
            )
        case TimeoutError():
            return _unavailable(endpoint, f"no answer within {timeout_s:g} s")
        case _:
            return _unavailable(endpoint, _in_words(error))


def _in_words(error: Exception) -> str:
    match error:
        case socket.gaierror(strerror=str() as words):
            return words
        case OSError(errno=int() as number) if not isinstance(error, ssl.SSLError):
            # Its text is asyncio's, with the address as Python writes it.
            return os.strerror(number)
        case _:
            return str(error) or type(error).__name__


def _unavailable(endpoint: Endpoint, cause: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"etcd at {endpoint} does not answer: {cause}; check that it runs, that this host "
        "reaches it, and that http or https is right"
    )


def _refused(endpoint: Endpoint, cause: str, advice: str) -> StoreRefusedError:
    return StoreRefusedError(f"etcd at {endpoint} and this host do not agree: {cause}; {advice}")
