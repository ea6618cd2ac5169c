"""What two ends tell each other: frames of JSON on one TCP connection, each with its MAC."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

from tunneld.bench.hosts.challenge import MAC_BYTES, Frames, Role, Secret
from tunneld.errors import BenchError

LONGEST_FRAME: Final = 4 << 20
"""Round trips of a minute are the longest result."""
_LENGTH_BYTES: Final = 4
_WRITE_S: Final = 20.0


class GoneError(BenchError):
    """The other end ended the connection."""


class Channel:
    """A connection whose ends have proved themselves to each other."""

    def __init__(self, stream: socket.socket, secret: Secret, own: Role, nonces: bytes) -> None:
        self._stream = stream
        other: Role = "run" if own == "serve" else "serve"
        self._ours, self._theirs = Frames(secret, own, nonces), Frames(secret, other, nonces)
        self._writing = threading.Lock()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_WRITE_S * 1e3))
        stream.setblocking(True)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message.

        Raises:
            GoneError: the other end is gone.
        """
        payload = json.dumps(message).encode()
        with self._writing:
            head = len(payload).to_bytes(_LENGTH_BYTES) + self._ours.mac(payload)
            try:
                self._stream.sendall(head + payload)
            except OSError as error:
                raise GoneError(_gone(error)) from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Waits for a message.

        Raises:
            BenchError: none came in time, or one that is not of the other end.
            GoneError: the other end is gone.
        """
        deadline = time.monotonic() + timeout_s
        head = received(self._stream, _LENGTH_BYTES + MAC_BYTES, deadline)
        length = int.from_bytes(head[:_LENGTH_BYTES])
        if length > LONGEST_FRAME:
            msg = f"bench: a message of {length} bytes, expected at most {LONGEST_FRAME}"
            raise BenchError(msg)
        payload = received(self._stream, length, deadline)
        if not self._theirs.is_next(head[_LENGTH_BYTES:], payload):
            msg = "bench: a message was changed on the way; nothing of it is taken"
            raise BenchError(msg)
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            msg = "bench: a message that is none; expected the same tunneld on both"
            raise BenchError(msg)
        return message

    def close(self) -> None:
        """Ends the connection; who waits for a message is told."""
        with suppress(OSError):  # it may be over already
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()


def received(stream: socket.socket, size: int, deadline: float) -> bytes:
    """Reads so many bytes, all before a moment of the monotonic clock.

    Raises:
        BenchError: they did not come in time.
        GoneError: the other end is gone.
    """
    found = bytearray()
    while len(found) < size:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            stream.settimeout(left)
            more = stream.recv(size - len(found))
        except TimeoutError as error:
            msg = "bench: the other end says nothing; expected an answer in time"
            raise BenchError(msg) from error
        except OSError as error:
            raise GoneError(_gone(error)) from error
        if not more:
            msg = "bench: the other end ended the connection"
            raise GoneError(msg)
        found += more
    return bytes(found)


def _gone(error: OSError) -> str:
    return f"bench: the other end is gone: {error.strerror or error}"
