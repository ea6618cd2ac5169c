"""Tells the service manager that the daemon is well, for as long as it is.

Well is: the control loop runs (it is what runs this), every thread of the data path has shown
itself lately, and no change of the host has been under way for too long. What is not well for
twice that time ends in a kill and a new start by the service manager (WatchdogSec=).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunneld.daemon.report import Report
from tunneld.host.notify import Notifier
from tunneld.log import Periodic

MIN_PATIENCE_S = 2.0
"""A healthy thread shows itself once a second at least."""

STATUS_INTERVAL_S = 1.0
"""How often, at the most, the state in words is looked at; it is sent when it has changed."""

_log = logging.getLogger("tunneld.daemon")


@dataclass(slots=True)
class _Beat:
    """The last reading of a thread that was another than the one before."""

    count: int
    seen_s: float


class Heartbeats:
    """When each thread of the data path was last seen to do something. Asks no clock."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._threads: dict[str, _Beat] = {}

    def stuck(self, beats: Mapping[str, int], now_s: float) -> str | None:
        """Takes a reading; returns the name of a thread that has not beaten for `patience_s`.

        A thread that is new, or was stopped and has started anew, begins its time now.
        """
        self._threads = {
            name: last
            if (last := self._threads.get(name)) is not None and last.count == count
            else _Beat(count, now_s)
            for name, count in beats.items()
        }
        for name, beat in self._threads.items():
            if now_s - beat.seen_s > self._patience_s:
                return name
        return None


class Watchdog:
    """Feeds the service manager's watchdog, and shows the state of the daemon there."""

    def __init__(
        self, notifier: Notifier, report: Report, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._notifier = notifier
        self._report = report
        report.add(lambda: notifier.problem)
        self._clock = clock or asyncio.get_running_loop().time
        interval_s = notifier.watchdog_interval_s
        self._interval_s = interval_s
        self._patience_s = max(MIN_PATIENCE_S, (interval_s or 0.0) / 2)
        self._heartbeats = Heartbeats(self._patience_s)
        self._complaint = Periodic()
        self._shown: str | None = None

    async def run(self) -> None:
        """Works until cancelled."""
        pause_s = min(STATUS_INTERVAL_S, (self._interval_s or STATUS_INTERVAL_S) / 4)
        while True:
            self.show()
            if self._interval_s is not None:
                self._feed()
            await asyncio.sleep(pause_s)

    def show(self) -> None:
        """Sends the state in words, if it has changed."""
        text = self._report.sentence()
        if text != self._shown:
            self._shown = text
            self._notifier.status(text)

    def problem(self) -> str | None:
        """Returns what hangs, in one line, or None."""
        path, now_s = self._report.path, self._clock()
        if path is None:
            return None
        beats = {} if path.engine is None else path.engine.beats()
        thread = self._heartbeats.stuck(beats, now_s)
        if thread is not None:
            return f"thread {thread} of the data path has not moved for {self._patience_s:g} s"
        since_s = path.reconciler.busy_since_s
        if since_s is not None and now_s - since_s > self._patience_s:
            return f"a change of the host has been under way for {now_s - since_s:.0f} s"
        return None

    def _feed(self) -> None:
        problem = self.problem()
        if problem is None:
            self._notifier.watchdog()
        elif self._complaint.due(self._clock(), problem):
            _log.error(
                "something hangs; the service manager is not told any more that all is well",
                extra={"fields": {"reason": problem}},
            )
