"""Chooses the scheduling policy of the data threads: batch while that costs nobody, else normal.

A batch thread that is woken does not preempt whoever woke it in the middle of a system call, so
more packets move for each switch between threads. Its price: where other programs hold every
processor without a pause, it waits for the end of their time slices, and packets wait with it. So
the threads are batch until they are held up, and normal for a while from then on.

Source: sched(7), SCHED_BATCH; the limits are between what was measured with free processors and
with a busy loop on each (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from tunneld.config import SchedulingChoice
from tunneld.errors import HostError
from tunneld.host.scheduling import Policy, RunTimes, policy_of, run_times, set_policy

INTERVAL_S: Final = 1.0
"""How often the threads are looked at."""

BEGIN_S: Final = 0.05
"""Threads that were just started have run by then; one that has not is found at the next look."""

MIN_SLICES: Final = 3
"""Fewer in an interval say nothing: an idle thread runs once a second."""

MIN_WAIT_NS: Final = 500_000
"""A slice on average; less is no loss to a packet, whatever the thread did beside it."""

MIN_RATIO: Final = 4
"""Waiting by running; a thread that runs as long as it waits has its share of the processors."""

PATIENCE: Final = 2
"""Intervals in a row in which some thread was held up, before the policy is given up."""

MIN_HOLD_S: Final = 10.0
MAX_HOLD_S: Final = 600.0
"""How long the threads stay normal: twice as long each time, while batch does not last `CALM_S`."""

CALM_S: Final = 60.0

PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""Lacks that pass by themselves: the next look is as good."""

_log = logging.getLogger("tunneld.daemon")


def is_held_up(had: RunTimes) -> bool:
    """Says whether a thread waited for others much more than it ran, given what it had."""
    return (
        had.slices >= MIN_SLICES
        and had.waited_ns >= MIN_WAIT_NS * had.slices
        and had.waited_ns > MIN_RATIO * had.ran_ns
    )


class Choice:
    """The policy that the threads are to have. Asks no clock, and touches no thread."""

    def __init__(self) -> None:
        self.policy: Policy = "batch"
        self.hold_s = MIN_HOLD_S
        """How long the threads stay normal, this time or the last."""
        self._threads: dict[str, RunTimes] = {}
        self._held_up = 0
        """Intervals in a row, up to now."""
        self._changed_at_s: float | None = None

    def take(self, readings: Mapping[str, RunTimes], now_s: float) -> str | None:
        """Takes a reading of each thread by its name; returns why `policy` has changed, or None."""
        had = {
            name: times.since(self._threads[name])
            for name, times in readings.items()
            if name in self._threads
        }
        self._threads = dict(readings)
        if self.policy == "normal":
            return self._try_again(now_s)
        held_up = [name for name, times in had.items() if is_held_up(times)]
        self._held_up = self._held_up + 1 if held_up else 0
        if self._held_up < PATIENCE:
            return None
        self._give_up(now_s)
        return _told(held_up[0], had[held_up[0]])

    def _try_again(self, now_s: float) -> str | None:
        if self._changed_at_s is None or now_s - self._changed_at_s < self.hold_s:
            return None
        self.policy, self._changed_at_s = "batch", now_s
        return f"tried again after {self.hold_s:g} s"

    def _give_up(self, now_s: float) -> None:
        # The first time there was no return that could have been too early.
        was_early = self._changed_at_s is not None and now_s - self._changed_at_s < CALM_S
        self.hold_s = min(2 * self.hold_s, MAX_HOLD_S) if was_early else MIN_HOLD_S
        self.policy, self._changed_at_s = "normal", now_s
        self._held_up = 0


class Scheduling:
    """Gives the data threads the policy that was asked for, or that is best now."""

    def __init__(
        self,
        threads: Callable[[], Mapping[str, int]],
        asked: SchedulingChoice,
        *,
        read: Callable[[int], RunTimes | None] = run_times,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`threads` returns the kernel's number of each thread by its name, as `Engine.threads`."""
        self._threads = threads
        self._asked = asked
        self._read = read
        self._clock = clock
        self._choice = Choice()
        self._given: dict[int, Policy] = {}
        """By the number of the thread."""

    async def run(self) -> None:
        """Works until cancelled, or until it cannot; packets move under any policy."""
        await asyncio.sleep(BEGIN_S)
        while True:
            if not self.step():
                return
            await asyncio.sleep(INTERVAL_S)

    def step(self) -> bool:
        """Looks at the threads once; returns whether there is more to be done for them."""
        threads = self._threads()
        try:
            if self._asked == "auto":
                self._follow(threads)
            else:
                self._give(threads, self._asked)
        except HostError as error:
            if getattr(error.__cause__, "errno", None) in PASSING:
                return True
            self._end(error)
            return False
        return True

    def _follow(self, threads: Mapping[str, int]) -> None:
        """Chooses by what the threads had, and does it.

        Raises:
            HostError: what it goes by is not to be had, or the policy is refused.
        """
        self._respect_others(threads)
        choice = self._choice
        readings = {name: self._read(thread_id) for name, thread_id in threads.items()}
        there = {name: times for name, times in readings.items() if times is not None}
        cause = choice.take(there, self._clock())
        self._give({name: threads[name] for name in there}, choice.policy)
        if cause is not None:
            fields: dict[str, object] = {"policy": choice.policy, "detail": cause}
            if choice.policy == "normal":
                fields["wait_s"] = choice.hold_s
            _log.info("the data threads have another scheduling policy", extra={"fields": fields})

    def _respect_others(self, threads: Mapping[str, int]) -> None:
        """Takes no policy away that somebody gave to the whole daemon, by chrt(1) or the unit.

        Raises:
            HostError: there is one.
        """
        for name, thread_id in threads.items():
            if thread_id not in self._given and policy_of(thread_id) == "other":
                raise HostError(
                    f"thread {name} was started under another policy than batch or normal, which"
                    " --scheduling=auto leaves; expected the unit's CPUSchedulingPolicy= to be"
                    " other, or --scheduling=batch or --scheduling=normal"
                )

    def _give(self, threads: Mapping[str, int], policy: Policy) -> None:
        """Gives the policy to those that have another.

        Raises:
            HostError: it is refused.
        """
        for thread_id in threads.values():
            if self._given.get(thread_id) != policy:
                if policy_of(thread_id) != policy:
                    set_policy(thread_id, policy)
                self._given[thread_id] = policy

    def _end(self, error: HostError) -> None:
        """Takes back what was given, and says why."""
        said = [str(error)]
        try:
            self._give({str(thread_id): thread_id for thread_id in self._given}, "normal")
        except HostError as refusal:
            said.append(str(refusal))
        _log.warning(
            "the data threads are given no scheduling policy",
            extra={"fields": {"error": "; ".join(said)}},
        )


def _told(name: str, had: RunTimes) -> str:
    return (
        f"{name} waited {had.waited_ns / 1e6:.0f} ms for a processor and ran"
        f" {had.ran_ns / 1e6:.1f} ms, in {had.slices} slices"
    )
