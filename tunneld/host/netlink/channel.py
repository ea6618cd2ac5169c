"""The routing socket, on a thread and a loop of its own.

pyroute2's asynchronous socket needs datagram endpoints of family AF_NETLINK, which uvloop
does not make; so it lives on a plain selector loop in a thread of its own, and each call is
handed over and awaited (ADR 5).
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from tunneld.errors import CapabilityError, HostError, NoThreadError
from tunneld.host.finish import finish
from tunneld.host.netlink.bulk import BATCH, BulkSocket, InterruptedDumpError, is_missing
from tunneld.host.netlink.wire import Request

_DUMP_TRIES = 10
"""A listing that changed while it was read is read again, at most this often in all."""

_T = TypeVar("_T")


class _EnoughError(Exception):
    """Of a listing no more is wanted."""


class Channel:
    """An open routing socket in the network namespace of the thread that opened it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._loop = loop
        self._thread = thread
        self._ip: Any = None
        self._bulk: BulkSocket | None = None
        self.on_progress: Callable[[], None] = lambda: None
        """Called after each answer of the kernel: what takes long is not what hangs."""
        self._lock = asyncio.Lock()
        """One request at a time: the kernel refuses a second dump on a socket (EBUSY)."""

    @classmethod
    async def open(cls) -> Self:
        """Starts the thread and opens the socket.

        Raises:
            HostError: the kernel refuses the socket.
        """
        loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=loop.run_forever, name="netlink", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            loop.close()
            raise NoThreadError("talk to the kernel by netlink") from error
        self = cls(loop, thread)
        try:
            self._ip, self._bulk = await self._run("open a routing socket", _open_sockets())
        except BaseException:
            await self.close()
            raise
        return self

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Self]:
        """Opens the socket for the length of a block."""
        self = await cls.open()
        try:
            yield self
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes the socket and ends the thread."""
        if not self._thread.is_alive():
            return
        if self._ip is not None:
            await self._run("close the routing socket", _close_sockets(self._ip, self._bulk))
            self._ip = self._bulk = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _call(
        self,
        what: str,
        method: Callable[..., Awaitable[Any]],
        *args: object,
        ignored: tuple[int, ...] = (),
        **kwargs: object,
    ) -> bool:
        """Makes one change; returns False where the kernel refused it with an `ignored` number."""

        async def call() -> bool:
            try:
                await method(*args, **kwargs)
            except NetlinkError as error:
                if error.code in ignored:
                    return False
                raise
            return True

        return await self._run(what, call())

    async def _dump(
        self, what: str, method: Callable[..., Awaitable[Any]], *args: object, **kwargs: object
    ) -> list[Any]:
        async def dump() -> list[Any]:
            found = await method(*args, **kwargs)
            if hasattr(found, "__aiter__"):
                return [message async for message in found]
            return list(found)

        for _ in range(_DUMP_TRIES - 1):
            try:
                return await self._run(what, dump())
            except HostError as error:
                if not isinstance(error.__cause__, NetlinkDumpInterrupted):
                    raise
        return await self._run(what, dump())

    async def _listing(
        self,
        what: str,
        kind: int,
        body: bytes,
        read: Callable[[bytes], _T | None],
        lengths: Collection[int] = (),
    ) -> list[_T]:
        """Returns what `read` makes of a listing; of routes only those of these prefix lengths."""
        bulk = self._opened_bulk()

        async def dump() -> list[_T]:
            for _ in range(_DUMP_TRIES - 1):
                try:
                    return bulk.dump(kind, body, read, lengths)
                except InterruptedDumpError:
                    continue
            return bulk.dump(kind, body, read, lengths)

        async def listing() -> list[_T]:
            try:
                return await dump()
            except InterruptedDumpError:
                raise OSError(errno.EBUSY, "it changes faster than it can be read") from None
            except OSError as error:
                if is_missing(error):
                    return []
                raise

        return await self._run(what, listing())

    async def _first(
        self, what: str, kind: int, body: bytes, read: Callable[[bytes], _T | None]
    ) -> _T | None:
        """Returns what `read` makes of the first message of a listing that it takes.

        The others are not read, and the kernel does not write them.
        """
        found: list[_T] = []

        def read_one(body: bytes) -> None:
            if (one := read(body)) is not None:
                found.append(one)
                raise _EnoughError

        async def first() -> None:
            bulk = BulkSocket()  # a listing that is given up keeps its socket busy
            try:
                bulk.dump(kind, body, read_one)
            except (_EnoughError, InterruptedDumpError):
                pass
            except OSError as error:
                if not is_missing(error):
                    raise
            finally:
                bulk.close()

        await self._run(what, first())
        return found[0] if found else None

    async def _change(self, what: str, requests: Sequence[Request]) -> list[int]:
        """Makes changes in their order, many at a time; returns for each 0 or an errno.

        Raises:
            CapabilityError: they are not permitted.
            HostError: the kernel takes no changes at all.
        """
        bulk = self._opened_bulk()
        codes: list[int] = []

        async def change(some: Sequence[Request]) -> list[int]:
            return bulk.change(some)

        for start in range(0, len(requests), BATCH):
            codes += await self._run(what, change(requests[start : start + BATCH]))
        if errno.EPERM in codes:
            raise _not_permitted(what)
        return codes

    async def _answers(self, what: str, requests: Sequence[Request]) -> list[bytes | None]:
        """Asks questions, many at a time; returns for each the answer, None: it is refused."""
        bulk = self._opened_bulk()
        found: list[bytes | None] = []

        async def ask(some: Sequence[Request]) -> list[bytes | None]:
            return bulk.ask(some)

        for start in range(0, len(requests), BATCH):
            found += await self._run(what, ask(requests[start : start + BATCH]))
        return found

    async def _change_one(self, what: str, request: Request, *ignored: int) -> bool:
        """Makes one change; returns False where the kernel refused it with an `ignored` number."""
        (code,) = await self._change(what, [request])
        if code and code not in ignored:
            raise refused(what, code)
        return not code

    def _opened_bulk(self) -> BulkSocket:
        if self._bulk is None:
            raise HostError("the routing socket is closed; expected it open while the daemon runs")
        return self._bulk

    async def _run(self, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with self._lock:
                done = await finish(
                    asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
                )
            self.on_progress()
            return done
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise _not_permitted(what) from error
            text = str(error.args[1]) if len(error.args) > 1 else str(error)
            raise HostError(
                f"cannot {what}: {text}; expected the kernel to allow it: see `ip address` and "
                "`ip route`"
            ) from error
        except OSError as error:
            raise HostError(
                f"cannot {what}: {error.strerror or error}; expected a routing netlink socket"
            ) from error
        finally:
            work.close()  # of one that was cancelled while it waited for its turn


def refused(what: str, code: int) -> HostError:
    """Returns the error for what the kernel refused with an errno."""
    return HostError(
        f"cannot {what}: {os.strerror(code)}; expected the kernel to allow it: see `ip address` "
        "and `ip route`"
    )


def _not_permitted(what: str) -> CapabilityError:
    return CapabilityError(
        f"cannot {what}: not permitted; expected CAP_NET_ADMIN: run as root or grant the capability"
    )


async def _open_sockets() -> tuple[AsyncIPRoute, BulkSocket]:
    ip = AsyncIPRoute()
    await ip.setup_endpoint()
    try:
        return ip, BulkSocket()
    except OSError:
        ip.close()
        raise


async def _close_sockets(ip: AsyncIPRoute, bulk: BulkSocket | None) -> None:
    ip.close()
    if bulk is not None:
        bulk.close()
