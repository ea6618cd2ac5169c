"""A second routing socket, for listings that the kernel filters and for changes by the hundred.

Path of a lease: `netlink.calls` -> **`netlink.bulk`** -> the kernel. It runs in the thread of
`netlink.channel`; nothing here waits for anybody but the kernel, which answers at once.

Where the kernel knows strict checking (Linux 4.20), it hands out only what was asked for: hosts
that speak BGP have 100,000 routes of others. An older one is asked for all.

Source: Linux netlink(7) (NETLINK_GET_STRICT_CHK, NETLINK_CAP_ACK), net/netlink/af_netlink.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from tunneld.host.netlink.wire import Request

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_GET_STRICT_CHK = 12
_SO_RCVBUFFORCE = 33

_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_ERRNO = struct.Struct("=i")

_RECEIVE_BYTES = 256 * 1024
_BUFFER_BYTES = 4 * 1024 * 1024
"""Holds the acknowledgments of a batch several times."""

BATCH = 200
"""Changes in one call of the kernel; each has an acknowledgment."""

_T = TypeVar("_T")


class InterruptedDumpError(Exception):
    """What was listed changed meanwhile: it may be incomplete."""


class BulkSocket:
    """An open, blocking socket."""

    def __init__(self) -> None:
        """Raises OSError where the kernel refuses it."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._sequence = 0
        try:
            self._socket.bind((0, 0))
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def dump(
        self,
        kind: int,
        body: bytes,
        read: Callable[[bytes], _T | None],
        lengths: Collection[int] = (),
    ) -> list[_T]:
        """Returns what `read` makes of each message of a listing, without None.

        `lengths`: of routes, only those whose destination has one of these prefix lengths.

        Raises:
            OSError: the kernel refuses.
            InterruptedDumpError: something changed meanwhile.
        """
        sequence = self._next()
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags, sequence, 0) + body)
        found: list[_T] = []
        is_interrupted = False
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, answer, flags, number, _ = _HEADER.unpack_from(data, offset)
                if length < _HEADER.size:
                    break
                start, offset = offset + _HEADER.size, offset + ((length + 3) & ~3)
                if number != sequence:  # of a listing that was given up
                    continue
                is_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if answer in (_NLMSG_DONE, _NLMSG_ERROR):
                    (code,) = _ERRNO.unpack_from(data, start)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    if is_interrupted:
                        raise InterruptedDumpError
                    return found
                if lengths and data[start + 1] not in lengths:
                    continue
                one = read(data[start : start - _HEADER.size + length])
                if one is not None:
                    found.append(one)

    def change(self, requests: Sequence[Request]) -> list[int]:
        """Makes at most `BATCH` changes, in their order; returns for each 0 or an errno.

        Raises:
            OSError: the kernel takes none of them, or its answers were lost.
        """
        first = self._sequence + 1
        self._send(requests)
        return self._codes(first, len(requests), lambda _number, _body: None)

    def _send(self, requests: Sequence[Request]) -> None:
        text = b"".join(
            _HEADER.pack(
                _HEADER.size + len(request.body),
                request.kind,
                _NLM_F_REQUEST | _NLM_F_ACK | request.flags,
                self._next(),
                0,
            )
            + request.body
            for request in requests
        )
        self._socket.send(text)

    def _codes(self, first: int, count: int, heard: Callable[[int, bytes], None]) -> list[int]:
        """Returns how each of `count` requests ended; `heard` is told of answers before that."""
        codes: dict[int, int] = {}
        while len(codes) < count:
            data = self._socket.recv(_RECEIVE_BYTES)
            offset = 0
            while offset + _HEADER.size + 4 <= len(data):
                length, answer, _, number, _ = _HEADER.unpack_from(data, offset)
                if length < _HEADER.size:
                    break
                if answer == _NLMSG_ERROR and number >= first:
                    (code,) = _ERRNO.unpack_from(data, offset + _HEADER.size)
                    codes[number - first] = -code
                elif number >= first:
                    heard(number - first, data[offset + _HEADER.size : offset + length])
                offset += (length + 3) & ~3
        return [codes[number] for number in range(count)]

    def ask(self, requests: Sequence[Request]) -> list[bytes | None]:
        """Asks at most `BATCH` questions; returns for each the answer, None where it is refused.

        Raises:
            OSError: the kernel takes none of them, or its answers were lost.
        """
        first = self._sequence + 1
        answers: list[bytes | None] = [None] * len(requests)

        def heard(number: int, body: bytes) -> None:
            answers[number] = body

        self._send(requests)
        self._codes(first, len(requests), heard)
        return answers

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence


def is_missing(error: OSError) -> bool:
    """Says whether a listing was refused since there is nothing of the kind: no IPv6, no table."""
    return error.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
