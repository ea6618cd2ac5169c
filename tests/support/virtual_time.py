"""An event loop whose time passes only while everybody waits, and then at once.

What runs on it is deterministic: no thread, no real clock, no wait. `run_in_executor` calls in
place, so that a store in a file takes part; what a socket brings does not.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


MAX_LOOKS = 1_000_000
"""So often somebody is runnable at one moment, and then it is always the same."""


class _NoWait(selectors.DefaultSelector):
    """Never waits; tells how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0
        self._looks = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not found:
            if timeout is None:
                raise AssertionError("everybody waits for what never comes")
            self._looks = 0 if timeout > 0 else self._looks + 1
            if self._looks > MAX_LOOKS:
                raise AssertionError(f"time stands still at {self.passed_s} s")
            self.passed_s += max(timeout, 0.0)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """For what does no I/O of its own."""

    def __init__(self) -> None:
        self._no_wait = _NoWait()
        super().__init__(self._no_wait)

    def time(self) -> float:
        """Returns the seconds since the loop was made."""
        return self._no_wait.passed_s

    def run_in_executor(  # type: ignore[override]
        self, _executor: object, call: Callable[..., T], *arguments: Any
    ) -> asyncio.Future[T]:
        """Calls at once: a thread would take real time, of which this loop knows nothing."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(call(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` on a loop of its own, in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
