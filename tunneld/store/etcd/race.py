"""Several ways to one thing, tried beside each other: the first that leads there is taken.

Path of a lease: etcd -> **store.etcd.race** -> `store.etcd.channel`, `store.etcd.transport`.
Decides the order and the head start; what an attempt does it does not know.

Source: RFC 8305 (Happy Eyeballs: section 4 order of families, section 5 head start).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, TypeVar

from tunneld.errors import NoThreadError

T = TypeVar("T")

HEAD_START_S = 0.25
"""RFC 8305, section 5: Connection Attempt Delay."""


class AllFailedError(Exception):
    """No way led there; `causes` in the order the ways were begun."""

    def __init__(self, causes: Sequence[Exception]) -> None:
        super().__init__("; ".join(map(str, causes)))
        self.causes = tuple(causes)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket connects to."""

    family: int
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


async def first(
    attempts: Iterable[Callable[[], Awaitable[T]]],
    head_start_s: float = HEAD_START_S,
    discard: Callable[[T], None] = lambda _: None,
) -> T:
    """Returns what the first attempt that succeeds returns; the others are cancelled.

    Each begins `head_start_s` after the one before, or as soon as that has failed. What a second
    one that succeeded in the same moment returned is given to `discard`.

    Raises:
        AllFailedError: none succeeded.
    """
    waiting = deque(attempts)
    order: list[asyncio.Future[T]] = []
    running: set[asyncio.Future[T]] = set()
    winner: asyncio.Future[T] | None = None
    try:
        while waiting or running:
            if waiting:
                task: asyncio.Future[T] = asyncio.ensure_future(waiting.popleft()())
                order.append(task)
                running.add(task)
            done, running = await asyncio.wait(
                running,
                timeout=head_start_s if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner = next((one for one in order if one in done and _succeeded(one)), None)
            if winner is not None:
                return winner.result()
        raise AllFailedError(
            [error for task in order if isinstance(error := _error(task), Exception)]
        )
    finally:
        for one in order:
            one.cancel()
        await asyncio.gather(*order, return_exceptions=True)
        for one in order:
            if one is not winner and _succeeded(one):
                discard(one.result())


def _succeeded(task: asyncio.Future[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _error(task: asyncio.Future[T]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


class Lookup:
    """The addresses of a host name: one look-up at a time, which outlives who waits for it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._running: asyncio.Future[list[Address]] | None = None

    async def addresses(self) -> list[Address]:
        """Returns the addresses, families in turn; begins a look-up unless one is under way.

        Raises:
            OSError: there are none, in the system's words.
        """
        if self._running is None:
            self._running = self._begin()
        found = await asyncio.shield(self._running)
        # The next connection asks again: names move.
        self._running = None
        return found

    def _begin(self) -> asyncio.Future[list[Address]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Address]] = loop.create_future()
        # Nobody may be left to take the error.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

        def done(found: list[Address] | None, error: Exception | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                self._running = None
                future.set_exception(error)
            else:
                future.set_result(found or [])

        def work() -> None:
            found: list[Address] | None = None
            error: Exception | None = None
            try:
                found = look_up(self._host, self._port)
            except (OSError, UnicodeError) as caught:
                error = caught
            # The loop may have ended meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(done, found, error)

        if _is_address(self._host):
            done(look_up(self._host, self._port), None)
        else:
            # A thread of its own, which the end of the program does not wait for.
            try:
                threading.Thread(target=work, name="tunneld-lookup", daemon=True).start()
            except RuntimeError:
                lack = OSError(errno.EAGAIN, str(NoThreadError("look up a name")))
                loop.call_soon(done, None, lack)
        return future


def look_up(host: str, port: int) -> list[Address]:
    """Asks the system for the addresses of a host; blocks.

    Raises:
        OSError, UnicodeError: it knows none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return in_turn([Address(family, sockaddr) for family, _, _, _, sockaddr in found])


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Returns the addresses with families in turn, in the order of each; none comes twice."""
    unique = list(dict.fromkeys(addresses))
    if not unique:
        return []
    preferred = unique[0].family
    queues = (
        deque(one for one in unique if one.family == preferred),
        deque(one for one in unique if one.family != preferred),
    )
    ordered: list[Address] = []
    while any(queues):
        ordered += [queue.popleft() for queue in queues if queue]
    return ordered


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
