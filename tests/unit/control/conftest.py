"""Runs each coroutine test on uvloop, as the daemon does, and on asyncio's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end on a fresh loop in debug mode."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_to_end(coroutine: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(debug=True, loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(coroutine, timeout=30))

    return run_to_end
