"""Runs the loops of the daemon side by side: when one ends with an error, all end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def together(*loops: Coroutine[Any, Any, None]) -> None:
    """Runs all until all have returned, or one raises: the others are cancelled then.

    Raises:
        Exception: the first error, itself and not a group of one.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for loop in loops:
                group.create_task(loop)
    except BaseExceptionGroup as several:
        raise _first(several) from several


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
