"""Counts what of the lease table is not used, and tells of it: each write once, floods in short.

Beside the path of a lease: `fib.plan` (refused) -> **`daemon.skips`** -> the log and the counters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from tunneld.lease.selection import Selection, Skipped
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Periodic

REMINDER_S = 60.0
"""How often a condition that lasts is named again in the log."""

_log = logging.getLogger("tunneld.daemon")


class Skips:
    """What has been told of the skipped entries of one table."""

    def __init__(self, tracker: LeaseTracker) -> None:
        self._tracker = tracker
        self._budgets: dict[str, Periodic] = {}
        """By reason, of which there is a closed number."""

    def tell(self, skipped: Iterable[Skipped]) -> None:
        """Counts and logs what is new among these, and among the entries that cannot be read."""
        selection = Selection(accepted=(), skipped=tuple(skipped))
        for one in self._tracker.newly_skipped(selection):
            self._log(one)

    def remind(self) -> None:
        """Tells how many skipped leases no line was written of."""
        for reason, budget in self._budgets.items():
            if budget.overdue(time.monotonic()):
                fields = {"reason": reason, "left_out": budget.left_out}
                _log.warning("more leases were skipped", extra={"fields": fields})

    def _log(self, skipped: Skipped) -> None:
        budget = self._budgets.setdefault(skipped.reason, Periodic(REMINDER_S))
        if not budget.due(time.monotonic(), (skipped.name, skipped.mod_revision)):
            return
        fields: dict[str, object] = {
            "entry": skipped.name,
            "reason": skipped.reason,
            "detail": skipped.detail,
            **budget.omissions(),
        }
        _log.warning("a lease is skipped", extra={"fields": fields})
