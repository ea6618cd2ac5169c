"""What carries a part of the desired state out: the data path, the operating system.

Path of a lease: `fib.compose` -> **`fib.executor`** -> `engine` | `host`. Pure.

A further one is a part of `State`, a file of its own, and a line in `daemon.datapath`.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from tunneld.fib.state import State

Actual = TypeVar("Actual")
"""A part of `State`, as it is."""
Change = TypeVar("Change")
"""What there is to do to it. False: nothing."""


class Executor(Protocol[Actual, Change]):
    """One part of the desired state, level-triggered. Executors do not know each other."""

    async def observe(self) -> Actual:
        """Returns what is there; what is not fully as it was put is left out.

        Raises:
            EngineError, HostError: it cannot be read.
        """
        ...

    def difference(self, desired: State, actual: Actual) -> Change:
        """Returns the change that makes the part `actual` what it is in `desired`."""
        ...

    async def apply(self, change: Change) -> None:
        """Carries a change out. May be repeated.

        Raises:
            PeerRouteError: what leads to some peers cannot be put; everything else is done.
            EngineError, HostError: what failed.
        """
        ...
