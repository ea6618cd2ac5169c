"""Carries a step to its end although its caller is cancelled meanwhile.

A step handed to a thread or a process goes on after a cancellation. Were it not awaited, a
stop could take things away first and the step put them there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def finish(step: Awaitable[_T]) -> _T:
    """Awaits a short step; a cancellation takes effect when the step has ended."""
    work = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen here, since the caller no longer asks
        raise
