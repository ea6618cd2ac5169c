"""The routing socket, on a thread and a loop of its own.

pyroute2's asynchronous socket needs datagram endpoints of family AF_NETLINK, which uvloop
does not make; so it lives on a plain selector loop in a thread of its own, and each call is
handed over and awaited (ADR 5).
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from tunneld.errors import CapabilityError, HostError
from tunneld.host.finish import finish

_DUMP_TRIES = 10
"""A listing that changed while it was read is read again, at most this often in all."""

_T = TypeVar("_T")


class Channel:
    """An open routing socket in the network namespace of the thread that opened it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._loop = loop
        self._thread = thread
        self._ip: Any = None
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
        thread.start()
        self = cls(loop, thread)
        try:
            self._ip = await self._run("open a routing socket", _open_socket())
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
            await self._run("close the routing socket", _close_socket(self._ip))
            self._ip = None
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

    async def _run(self, what: str, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with self._lock:
                return await finish(
                    asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))
                )
        except NetlinkError as error:
            if error.code == errno.EPERM:
                raise CapabilityError(
                    f"cannot {what}: not permitted; expected CAP_NET_ADMIN: run as root or grant "
                    "the capability"
                ) from error
            text = str(error.args[1]) if len(error.args) > 1 else str(error)
            raise HostError(
                f"cannot {what}: {text}; expected the kernel to allow it: see `ip address` and "
                "`ip route`"
            ) from error
        except OSError as error:
            raise HostError(
                f"cannot {what}: {error.strerror or error}; expected a routing netlink socket"
            ) from error


async def _open_socket() -> AsyncIPRoute:
    ip = AsyncIPRoute()
    await ip.setup_endpoint()
    return ip


async def _close_socket(ip: AsyncIPRoute) -> None:
    ip.close()
