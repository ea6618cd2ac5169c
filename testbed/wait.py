"""Polls a condition with a deadline, in place of a sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""How many times the expected time a wait lasts: tests share the machine with other tests.

A deadline tells what never happens from what does; it is no claim about speed.
"""


def wait_until(
    predicate: Callable[[], T], timeout_s: float = 20.0, what: str = "", poll_s: float = 0.02
) -> T:
    """Returns the first true value of `predicate`.

    Raises:
        TimeoutError: it stayed false, `timeout_s` times `PATIENCE`; `what` names the condition.
    """
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__name__", "the condition")
            msg = f"{name} did not come true within {timeout_s:g} s (last value: {value!r})"
            raise TimeoutError(msg)
        time.sleep(poll_s)
