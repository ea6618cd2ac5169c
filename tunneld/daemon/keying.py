"""Agrees keys with the others, for one data path: what the engine tells, and what it must be told.

Path of a lease: `trust.policy` -> **`daemon.keying`** <-> `engine`. The handshakes themselves are
made there. Where this host was in agreement with others before it was started again, it is so
again before it counts as ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from tunneld.clock import Now
from tunneld.daemon.protection import Protection
from tunneld.engine import EngineEvent
from tunneld.errors import HostError
from tunneld.fib.state import EngineState
from tunneld.host.scheduling import make_nicer
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import IPNetwork
from tunneld.log import Periodic
from tunneld.trust.secrets import Psks

TICK_S: Final = 0.5
"""How often the clocks are compared, and peers are looked for with whom to begin."""

STEP_S: Final = 2.0
"""A step of the wall clock against the clock since boot by more than this counts as a resumed
image of this machine, whose other copy has the same keys."""

MEET_S: Final = 3.0
"""How long a start waits at most for those it was in agreement with before."""

WRITE_S: Final = 10.0
"""How often, at the most, these are written down."""

NICENESS: Final = 5
"""Of the thread that agrees keys, above that of the data threads: a flood of handshakes must not
take the processors from them."""

NAME: Final = "agreed"
FORMAT: Final = 1

_log = logging.getLogger("tunneld.daemon")


class Agreeing(Protocol):
    """What agrees keys: the engine."""

    async def observe(self) -> EngineState:
        """Returns what it holds."""
        ...

    def set_claim(self, subnets: Sequence[IPNetwork]) -> None:
        """Says which subnets this host claims."""
        ...

    def set_psks(self, psks: Psks | None) -> None:
        """Takes over other pre-shared keys."""
        ...

    def forget_keys(self) -> None:
        """Ends all keys at once, and agrees new ones."""
        ...

    def connect(self, key: str) -> None:
        """Begins a handshake."""
        ...

    def keying_thread(self) -> int | None:
        """Returns the kernel's number of the thread that does it."""
        ...


class Keying:
    """One engine's keys, from its start to its end."""

    def __init__(
        self,
        engine: Agreeing,
        protection: Protection,
        state_dir: StateDir,
        *,
        own: Callable[[], Collection[IPNetwork]],
        subnets_of: Callable[[str], Collection[IPNetwork]] = lambda _key: (),
        now: Callable[[], Now] = Now.read,
    ) -> None:
        """`own` returns this host's subnets; `subnets_of` those reached by a key, for the log."""
        self._engine = engine
        self._protection = protection
        self._state_dir = state_dir
        self._own = own
        self._subnets_of = subnets_of
        self._now = now
        self._claim: frozenset[IPNetwork] | None = None
        self._begun: set[str] = set()
        """Those that handshakes were begun with while they are reached in plain."""
        self._agreed = asyncio.Event()
        """Set with each handshake that is confirmed."""
        self._former = set(_read(state_dir.load(NAME)))
        """Those of an earlier start that nothing has been heard of yet."""
        self._written = frozenset(self._former)
        self._write_s = 0.0
        self._offset_s: float | None = None
        self._nice_thread: int | None = None
        self._unanswered = Periodic()

    def follow_own(self) -> None:
        """Claims the subnets that this host holds now."""
        own = frozenset(self._own())
        if own != self._claim:
            self._claim = own
            self._engine.set_claim(sorted(own, key=str))

    def take_psks(self) -> None:
        """Takes over the PSKs as they were read last."""
        self._engine.set_psks(self._protection.psks)

    def take(self, event: EngineEvent) -> bool:
        """Takes an event of the engine; returns whether it was about keys."""
        if event.key is None:
            return False
        self._former.discard(event.key)
        match event.kind:
            case "keys_confirmed":
                self._protection.confirmed(event.key, event.claim or ())
                self._agreed.set()
            case "keys_lost":
                self._protection.lost(event.key)
            case "handshake_given_up":
                self._tell_unanswered(event.key, event.packets or 0)
            case _:
                return False
        return True

    async def meet_former(self) -> None:
        """Agrees keys with those it was in agreement with before; waits for them a while."""
        known = (await self._engine.observe()).identities
        wanted = self._former & known.keys()
        for key in sorted(wanted):
            self._engine.connect(key)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEET_S):
                while not wanted <= self._protection.claims.keys():
                    self._agreed.clear()
                    await self._agreed.wait()

    async def run(self) -> NoReturn:
        """Works until cancelled."""
        while True:
            now = self._now()
            self._compare_clocks(now)
            self._be_nice()
            until_s = self._protection.claims.until_s()
            if until_s is not None and now.boot_s >= until_s:
                self._protection.on_change()
                until_s = None
            await self._begin_switches()
            await self._write_down(now.boot_s)
            wait_s = TICK_S if until_s is None else min(TICK_S, until_s - now.boot_s)
            await asyncio.sleep(max(wait_s, 0.0))

    def close(self) -> None:
        """The engine is about to end, and all keys with it."""
        agreed = self._agreed_with()
        self._protection.claims.clear()
        if agreed != self._written:
            self._state_dir.save(NAME, _document(agreed))

    async def _begin_switches(self) -> None:
        """Begins with whoever is reached in plain until keys are agreed: no packet waits for it."""
        switching = self._protection.claims.switching()
        self._begun &= switching
        if due := switching - self._begun:
            known = (await self._engine.observe()).identities
            for key in sorted(due & known.keys()):
                self._engine.connect(key)
                self._begun.add(key)

    def _compare_clocks(self, now: Now) -> None:
        offset_s = now.wall_s - now.boot_s
        before_s, self._offset_s = self._offset_s, offset_s
        if before_s is not None and abs(offset_s - before_s) > STEP_S:
            _log.warning(
                "the clock has been set, or this machine was resumed from an image: all keys are "
                "made anew",
                extra={"fields": {"detail": f"a step of {offset_s - before_s:+.0f} s"}},
            )
            self._engine.forget_keys()

    def _be_nice(self) -> None:
        thread = self._engine.keying_thread()
        if thread is None or thread == self._nice_thread:
            return
        self._nice_thread = thread
        try:
            make_nicer(thread, NICENESS)
        except HostError as error:
            _log.warning(
                "the thread that agrees keys is no nicer than the data threads",
                extra={"fields": {"error": str(error)}},
            )

    def _agreed_with(self) -> frozenset[str]:
        # A start that ends before they answer must not forget them.
        return self._protection.claims.keys() | self._former

    async def _write_down(self, now_s: float) -> None:
        agreed = self._agreed_with()
        if agreed != self._written and now_s >= self._write_s:
            self._written, self._write_s = agreed, now_s + WRITE_S
            await asyncio.to_thread(self._state_dir.save, NAME, _document(agreed))

    def _tell_unanswered(self, key: str, packets: int) -> None:
        if self._unanswered.due(asyncio.get_running_loop().time(), key):
            subnets = ", ".join(sorted(map(str, self._subnets_of(key))))
            _log.warning(
                "a peer answers no handshake; packets for it are dropped",
                extra={
                    "fields": {
                        "peer": subnets or "no subnet",
                        "count": packets,
                        **self._unanswered.omissions(),
                    }
                },
            )


def _document(keys: Collection[str]) -> Mapping[str, object]:
    return {"Format": FORMAT, "Keys": sorted(keys)}


def _read(document: object) -> frozenset[str]:
    """Returns the public keys that were written down; nothing where they cannot be read."""
    keys = document.get("Keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        return frozenset()
    return frozenset(key for key in keys if isinstance(key, str))
