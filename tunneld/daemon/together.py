"""Runs the loops of the daemon side by side: when one ends with an error, all end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Any

_log = logging.getLogger("tunneld.daemon")


async def together(*loops: Coroutine[Any, Any, None]) -> None:
    """Runs all until all have returned, or one raises: the others are cancelled then.

    A cancellation is never lost, also when it comes together with an error (asyncio.TaskGroup
    forgets it before Python 3.13): whoever tries again after an error must hear of a stop.

    Raises:
        Exception: the first error.
        CancelledError: the caller was cancelled, whatever else has happened.
    """
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = _errors(tasks)
    except asyncio.CancelledError:
        await _ended(tasks)
        for error in _errors(tasks):
            _log.error("an error on the way to the end", exc_info=error)
        raise
    was_cancelled = await _ended(tasks)
    if was_cancelled:
        raise asyncio.CancelledError from next(iter(failed), None)
    for error in failed:
        raise error


async def _ended(tasks: Collection[asyncio.Task[None]]) -> bool:
    """Cancels tasks and waits for their ends; returns whether the caller was cancelled then."""
    was_cancelled = False
    for task in tasks:
        task.cancel()
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            was_cancelled = True
    return was_cancelled


def _errors(tasks: Collection[asyncio.Task[None]]) -> list[BaseException]:
    """Returns the errors of those that have ended with one."""
    ended = (task.exception() for task in tasks if task.done() and not task.cancelled())
    return [error for error in ended if error is not None]
