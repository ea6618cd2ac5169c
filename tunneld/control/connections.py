"""The open connections of a server: a task for each, and an end to all of them.

asyncio's own server forgets its connections when it is closed; these are counted and waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Serves each connection in a task of its own, at most `limit` at a time."""

    def __init__(self, serve: Serve, *, limit: int) -> None:
        self._serve = serve
        self._limit = limit
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a new connection; closes it at once when there are too many."""
        if len(self._open) >= self._limit:
            writer.close()
            return
        task = asyncio.create_task(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._forget)

    async def close(self, *, patience_s: float) -> None:
        """Ends all connections; those in the middle of a reply may finish within `patience_s`."""
        tasks, writers = list(self._open), list(self._open.values())
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=patience_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _forget(self, task: asyncio.Task[None]) -> None:
        # Here, since a task cancelled before its first step never reaches a `finally`.
        self._open.pop(task).close()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, ConnectionError):  # the client is gone or asleep; it knows
            await self._serve(reader, writer)
