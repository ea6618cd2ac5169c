"""Makes the host equal to its desired state, again after every event, whatever it was.

Path of a lease: `fib.compose` -> **`daemon.reconcile`** -> executors (`engine`, `host`).
It decides nothing: `desired` says what must be, an executor what there is to do about its part.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tunneld.errors import DeviceLostError, EngineError, HostError, PeerRouteError
from tunneld.fib.executor import Executor
from tunneld.fib.state import State
from tunneld.log import Periodic

RETRY_S = 1.0
"""How long after a refusal of the kernel the next attempt is made, if nothing happens before."""

MAX_RETRY_S = 5.0
"""The same, when it has been refused again and again."""

_log = logging.getLogger("tunneld.daemon")


class Reconciler:
    """Carries `desired()` into the executors, one after the other, whenever it is woken."""

    def __init__(
        self, executors: Sequence[Executor[Any, Any]], desired: Callable[[], State | None]
    ) -> None:
        """`desired` returns None while nothing is known that must be."""
        self._executors = executors
        self._desired = desired
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._complaint = Periodic()
        self.problem: str | None = None
        """Why the host is not as it must be, in one line; None while it is."""
        self.busy_since_s: float | None = None
        """When the comparison under way was begun, or last got an answer of the kernel, on the
        loop's clock; None: there is none. What takes long for its size does not hang."""

    def wake(self) -> None:
        """Asks for one more comparison. Cheap; many calls before it runs count as one."""
        self._settled.clear()
        self._dirty.set()

    async def settled(self) -> None:
        """Returns once the host has been made equal to a desired state."""
        await self._settled.wait()

    async def run(self) -> None:
        """Works until cancelled. A refusal is reported, kept in `problem`, and tried again.

        Raises:
            DeviceLostError: nothing but opening the data path again helps.
        """
        retry_s = RETRY_S
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._moves()
            try:
                await self._once()
            except DeviceLostError:
                raise
            except (EngineError, HostError) as error:
                self._refused(str(error), retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
            except OSError as error:
                # No room has foreseen it, and still it may pass: descriptors or memory run out.
                self._refused(
                    f"cannot look at the host: {error.strerror or error}; expected free file "
                    "descriptors and memory: see LimitNOFILE= of the unit and `ulimit -n`",
                    RETRY_S,
                )
            else:
                self.problem = None
                retry_s = RETRY_S
            finally:
                self.busy_since_s = None

    def _moves(self) -> None:
        self.busy_since_s = asyncio.get_running_loop().time()

    def moves_on(self) -> None:
        """Says that the kernel has answered."""
        if self.busy_since_s is not None:
            self._moves()

    def _refused(self, problem: str, retry_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.problem = problem
        if self._complaint.due(loop.time(), problem):
            _log.error(
                "the host is not as it must be; trying again",
                extra={"fields": {"error": problem}},
            )
        loop.call_later(retry_s, self.wake)

    async def _once(self) -> None:
        desired = self._desired()
        if desired is None:
            return
        refusals = []
        for executor in self._executors:
            change = executor.difference(desired, await executor.observe())
            if not change:
                continue
            try:
                await executor.apply(change)
            except PeerRouteError as refusal:
                # One peer's trouble is none of the others', nor of those who wait for this host.
                refusals.append(refusal)
        self._settle()
        if refusals:
            raise PeerRouteError("; ".join(map(str, refusals)))

    def _settle(self) -> None:
        # Something may have happened while the host was being changed: then it is not settled.
        if not self._dirty.is_set():
            self._settled.set()
