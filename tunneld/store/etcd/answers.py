"""What etcd, TLS and the system say when something fails, with its cause and what to do.

Path of a lease: etcd -> **store.etcd.answers** -> `store.etcd.transport`.
Pure. Decides which answers are worth a try elsewhere; tries nothing.

Source: etcd `server/etcdserver/api/v3rpc/rpctypes/error.go` (messages), RFC 8446 section 6.2
(alerts; OpenSSL's names of them).
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tunneld.errors import (
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)

AUTH_IS_OFF = "authentication is not enabled"
IN_ORDER = "the server has ended the connection in order"
"""Of a stream that ended so: nothing is wrong, and it may begin again at once."""

_TRY_ELSEWHERE = (
    Status.UNAVAILABLE,
    Status.DEADLINE_EXCEEDED,
    Status.UNKNOWN,
    Status.INTERNAL,
    Status.CANCELLED,
    Status.UNIMPLEMENTED,
    Status.RESOURCE_EXHAUSTED,
    Status.DATA_LOSS,
)
_STALE_TOKEN = ("user name is empty", "auth token", "auth store is old")
"""A token that is missing, or older than the users; a new one helps."""
_NO_CLIENT_CERTIFICATE = "CERTIFICATE_REQUIRED"
_CLIENT_ALERTS = (
    _NO_CLIENT_CERTIFICATE,
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
    "ALERT_DECRYPT_ERROR",
    "ALERT_HANDSHAKE_FAILURE",
)


class ConnectError(Exception):
    """An address did not become a connection; its text says which, and what was waited for."""

    def __init__(self, text: str, cause: Exception | None = None) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What proves us to etcd and etcd to us."""

    keyfile: Path | None = None
    certfile: Path | None = None
    cafile: Path | None = None
    username: str | None = None
    password_file: Path | None = None


def translated(
    endpoint: str, error: Exception, credentials: Credentials, *, doing: str, limit_s: float
) -> StoreError:
    """Returns an error of ours for one of the libraries'; `doing` says what etcd was asked to do.

    Raises:
        GRPCError: etcd answered that the request itself cannot be done: the caller knows why.
    """
    match error:
        case StoreError():
            found: StoreError = error
        case GRPCError():
            found = _answered(endpoint, error, credentials, doing)
        case ConnectError(cause=ssl.SSLError() as cause) | (ssl.SSLError() as cause):
            found = _of_tls(endpoint, cause, credentials)
        case TimeoutError():
            found = unavailable(endpoint, f"no answer within {limit_s:g} s")
        case _:
            found = unavailable(endpoint, in_words(error))
    return found


def in_words(error: Exception) -> str:
    """Returns what the system says, without how a library says that it does."""
    match error:
        case socket.gaierror(strerror=str() as words):
            return words
        case ssl.SSLError(reason=str() as reason):
            return f"TLS: {_plain(reason)}"
        case OSError(errno=int() as number) if not isinstance(error, ssl.SSLError):
            # Its text is asyncio's, with the address as Python writes it.
            return os.strerror(number)
        case _:
            return str(error) or type(error).__name__


def is_auth_off(error: GRPCError) -> bool:
    """Returns whether etcd has no users: then no token is needed."""
    return AUTH_IS_OFF in (error.message or "")


def is_final(error: StoreError) -> bool:
    """Returns whether another member of the cluster, or a new token, would answer the same."""
    return isinstance(error, StoreDeniedError | StoreFullError)


def unavailable(endpoint: str, cause: str) -> StoreUnavailableError:
    """Returns the error of an endpoint that did not become a connection, or fell silent."""
    return StoreUnavailableError(
        f"etcd at {endpoint} does not answer: {cause}; check that it runs, that this host "
        "reaches it, and that http or https is right"
    )


def _answered(endpoint: str, error: GRPCError, credentials: Credentials, doing: str) -> StoreError:
    status, message = error.status, error.message or error.status.name
    user = credentials.username
    if "database space exceeded" in message:
        return StoreFullError(
            f"etcd at {endpoint} takes no writes, its database is full: {message}; compact and "
            "defragment it, then `etcdctl alarm disarm`, or give it a larger quota"
        )
    if status is Status.PERMISSION_DENIED or "permission denied" in message:
        return StoreDeniedError(
            f"etcd at {endpoint} does not let user {user!r} {doing}: {message}; grant a role of "
            "that user readwrite on the prefix"
        )
    is_refused = "authentication failed" in message or status is Status.UNAUTHENTICATED
    if is_refused or any(text in message for text in _STALE_TOKEN):
        return _refused(
            endpoint,
            message,
            "etcd asks for a user: give --etcd-username and --etcd-password-file"
            if user is None
            else f"check the etcd user {user!r}, its roles, and its password "
            f"in {credentials.password_file}",
        )
    if status not in _TRY_ELSEWHERE:
        raise error
    return _cannot_serve(endpoint, status, message)


def _cannot_serve(endpoint: str, status: Status, message: str) -> StoreUnavailableError:
    if message.startswith("etcdserver:") or status is Status.DATA_LOSS:
        return StoreUnavailableError(
            f"etcd at {endpoint} answers, but cannot serve: {message}; look at its cluster with "
            "`etcdctl endpoint status --cluster` and `etcdctl alarm list`"
        )
    if status is Status.UNIMPLEMENTED:
        return StoreUnavailableError(
            f"what answers at {endpoint} is no etcd with API v3: {message}; check the endpoint"
        )
    return unavailable(endpoint, message)


def _of_tls(endpoint: str, error: ssl.SSLError, credentials: Credentials) -> StoreError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _refused(
            endpoint, error.verify_message, "name the CA that signed etcd's certificate"
        )
    if any(alert in (error.reason or "") for alert in _CLIENT_ALERTS):
        return _client_refused(endpoint, error.reason, credentials)
    return unavailable(endpoint, in_words(error))


def _client_refused(endpoint: str, reason: str, credentials: Credentials) -> StoreRefusedError:
    said = f"TLS alert: {_plain(reason)}"
    if credentials.certfile is None:
        return _refused(
            endpoint,
            f"etcd asks for a client certificate, and none was given ({said})",
            "give --etcd-certfile and --etcd-keyfile",
        )
    return _refused(
        endpoint,
        f"etcd does not take the client certificate {credentials.certfile} ({said})",
        "check that --etcd-certfile is signed by the CA etcd trusts (its --trusted-ca-file), is "
        "for client authentication and has not expired",
    )


def _plain(reason: str) -> str:
    """`TLSV13_ALERT_CERTIFICATE_REQUIRED` -> `certificate required`."""
    return reason.rpartition("ALERT_")[2].replace("_", " ").lower()


def _refused(endpoint: str, cause: str, advice: str) -> StoreRefusedError:
    return StoreRefusedError(f"etcd at {endpoint} and this host do not agree: {cause}; {advice}")
