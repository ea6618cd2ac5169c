"""Makes the host equal to its desired state, again after every event, whatever it was.

Path of a lease: `fib.compose` -> **`daemon.reconcile`** -> `engine` | `host`.
It decides nothing: `desired` says what must be, `fib.diff` what to do about it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tunneld.engine import Engine
from tunneld.errors import DeviceLostError, EngineError, HostError, PeerRouteError
from tunneld.fib.diff import difference
from tunneld.fib.state import Route, State
from tunneld.host.actuator import Actuator
from tunneld.log import Periodic

RETRY_S = 1.0
"""How long after a refusal of the kernel the next attempt is made, if nothing happens before."""

MAX_RETRY_S = 5.0
"""The same, when it has been refused again and again."""

_log = logging.getLogger("tunneld.daemon")


class Reconciler:
    """Carries `desired()` into the engine and the host whenever it is woken."""

    def __init__(
        self, *, engine: Engine | None, actuator: Actuator, desired: Callable[[], State | None]
    ) -> None:
        """`engine` is None where the kernel moves the packets: then nothing is asked of it."""
        self._engine = engine
        self._actuator = actuator
        self._desired = desired
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._complaint = Periodic()
        self.problem: str | None = None
        """Why the host is not as it must be, in one line; None while it is."""
        self.routes: frozenset[Route] = frozenset()
        """What the kernel is known to have of our routes, by which it reaches peers itself."""
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
        self._actuator.on_progress(self._moves_on)
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

    def _moves_on(self) -> None:
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
        engine = self._engine
        if engine is not None:
            # At once, since to look at the host takes its time: what a new peer sends is for us
            # as soon as it is in here.
            inside = difference(desired, State(engine=engine.observe(), host=desired.host))
            if inside.engine:
                engine.apply(inside.engine)
        actual = State(engine=desired.engine, host=await self._actuator.observe())
        self.routes = actual.host.routes
        change = difference(desired, actual)
        if change.host:
            try:
                await self._actuator.apply(change.host)
            except PeerRouteError:
                # One peer's trouble is none of the others', nor of those who wait for this host.
                self.routes = await self._actuator.routes()
                self._settle()
                raise
            self.routes = desired.host.routes
        self._settle()

    def _settle(self) -> None:
        # Something may have happened while the host was being changed: then it is not settled.
        if not self._dirty.is_set():
            self._settled.set()
