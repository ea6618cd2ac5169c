"""Runs each coroutine test on uvloop, as the daemon does, and on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from testbed.wait import PATIENCE

Run = Callable[[Coroutine[Any, Any, None]], None]


async def outcome_of(coroutine: Coroutine[Any, Any, None]) -> BaseException | None:
    """Waits for a test's coroutine, and hands its failure out as a value.

    A failed `pytest.raises` is no Exception: raised through the loop, it would stop the loop in
    the middle and leave the test hanging instead of failing.
    """
    try:
        async with asyncio.timeout(30 * PATIENCE):
            await coroutine
    except BaseException as error:
        return error
    return None


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on a fresh loop in debug mode."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_to_end(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(debug=True, loop_factory=factory) as runner:
            failure = runner.run(outcome_of(coroutine))
        if failure is not None:
            raise failure

    return run_to_end
