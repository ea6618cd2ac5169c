"""Lets one run in: whoever proves the secret first. Everybody else costs little and gets nothing.

At most `MOST_PENDING` connections are heard at a time, each for at most `PROOF_S`; when one more
comes, the oldest goes. So who never answers, or comes in crowds, keeps out nobody for long.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tunneld.bench.hosts.challenge import (
    ANSWER_BYTES,
    HEAD_BYTES,
    HELLO_BYTES,
    NONCE_BYTES,
    PROOF_BYTES,
    Secret,
    hello,
    is_proved,
    require_version,
)
from tunneld.bench.hosts.channel import Channel
from tunneld.errors import BenchError

MOST_PENDING: Final = 32
PROOF_S: Final = 5.0
_LOOK_S: Final = 0.5
_YES, _NO = b"\x01", b"\x00"


@dataclass(slots=True, kw_only=True)
class _Pending:
    """A connection that has proved nothing yet."""

    stream: socket.socket
    address: str
    nonce: bytes
    until: float
    said: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The one that was let in."""

    channel: Channel
    address: str


class Gate:
    """Waits at a listening socket, which stays open."""

    def __init__(self, listener: socket.socket, secret: Secret) -> None:
        self._listener = listener
        self._secret = secret
        self._pending: list[_Pending] = []
        self._selector = selectors.DefaultSelector()
        self.refused = 0
        """Connections that proved nothing."""

    def admit(self, timeout_s: float) -> Admitted:
        """Waits for one that proves the secret.

        Raises:
            BenchError: nobody did in time.
        """
        deadline = time.monotonic() + timeout_s
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while (now := time.monotonic()) < deadline:
                self._drop([it for it in self._pending if it.until <= now])
                for key, _ in self._selector.select(min(_LOOK_S, deadline - now)):
                    if key.data is None:
                        self._accept()
                    elif (admitted := self._hear(key.data)) is not None:
                        return admitted
        finally:
            self._drop(list(self._pending))
            self._selector.close()
        msg = f"bench: nobody proved the secret within {timeout_s:g} s"
        raise BenchError(msg)

    def _accept(self) -> None:
        try:
            stream, address = self._listener.accept()
        except OSError:
            return  # it went away again
        if len(self._pending) >= MOST_PENDING:
            self._drop([self._pending[0]])
        stream.setblocking(False)
        nonce = os.urandom(NONCE_BYTES)
        until = time.monotonic() + PROOF_S
        one = _Pending(stream=stream, address=address[0], nonce=nonce, until=until)
        self._pending.append(one)
        self._selector.register(stream, selectors.EVENT_READ, one)
        try:
            stream.send(hello(nonce))
        except OSError:
            self._drop([one])

    def _hear(self, one: _Pending) -> Admitted | None:
        if one not in self._pending:
            return None  # dropped for another in the same turn
        try:
            more = one.stream.recv(ANSWER_BYTES - len(one.said))
        except BlockingIOError:
            return None
        except OSError:
            more = b""
        one.said += more
        if more and len(one.said) < ANSWER_BYTES:
            return None
        nonces = _nonces(one, bytes(one.said)) if len(one.said) == ANSWER_BYTES else None
        if nonces is None or not is_proved(
            self._secret, "run", nonces, bytes(one.said[-PROOF_BYTES:])
        ):
            self._refuse(one)
            return None
        self._pending.remove(one)
        self._selector.unregister(one.stream)
        one.stream.settimeout(PROOF_S)
        try:
            one.stream.sendall(_YES + self._secret.key("serve", nonces))
        except OSError:
            one.stream.close()
            return None
        channel = Channel(one.stream, self._secret, "serve", nonces)
        return Admitted(channel=channel, address=one.address)

    def _refuse(self, one: _Pending) -> None:
        self.refused += 1
        with suppress(OSError):  # it may not hear it
            one.stream.send(_NO + bytes(PROOF_BYTES))
        self._drop([one])

    def _drop(self, pending: list[_Pending]) -> None:
        for one in pending:
            self._pending.remove(one)
            self._selector.unregister(one.stream)
            one.stream.close()


def _nonces(one: _Pending, said: bytes) -> bytes | None:
    try:
        require_version(said[:HEAD_BYTES], one.address)
    except BenchError:
        return None
    return one.nonce + said[HEAD_BYTES:HELLO_BYTES]
