"""The open connections of a server: a task for each, and an end to all of them.

asyncio's own server forgets its connections when it is closed; these are counted and waited for.
When there are too many, the one that has been silent longest makes room: whoever opens many and
says nothing shuts nobody out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Connections:
    """Serves each connection in a task of its own, at most `limit` at a time."""

    def __init__(self, serve: Serve, *, limit: int) -> None:
        self._serve = serve
        self._limit = limit
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """The one that has been silent longest is first."""
        self._answering: set[asyncio.Task[object]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a new connection; when there are too many, one that waits for its request ends."""
        if len(self._open) >= self._limit and not self._make_room():
            writer.close()
            return
        task = asyncio.create_task(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._forget)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keeps the current task's connection from making room, while a request is answered."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._answering.add(task)
        try:
            yield
        finally:
            self._answering.discard(task)
            if task in self._open:  # it has been silent only from now on
                self._open[task] = self._open.pop(task)

    def _make_room(self) -> bool:
        for task, writer in self._open.items():
            if task not in self._answering:
                task.cancel()
                # Forgotten at once: many may come before the task hears of it.
                del self._open[task]
                writer.close()
                return True
        return False

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
        writer = self._open.pop(task, None)
        if writer is not None:
            writer.close()

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, ConnectionError):  # the client is gone or asleep; it knows
            await self._serve(reader, writer)
