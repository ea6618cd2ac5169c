"""Whether the store answers: what `status` says of it, and one log line per change.

Path of a lease: beside it. Both stores report each success and failure here.
A store that stays away is worth a line a minute, not a line per attempt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tunneld.lease.registry import StoreStatus
from tunneld.log import Periodic

log = logging.getLogger("tunneld.store")


class Health:
    """State of the connection to a store."""

    def __init__(
        self, kind: str, endpoint: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind = kind
        self._endpoint = endpoint
        self._clock = clock
        self._is_connected = False
        self._problem: str | None = None
        self._revision = 0
        self._is_told_connected = False
        self._complaint = Periodic()

    def status(self) -> StoreStatus:
        """Returns what is known."""
        return StoreStatus(
            kind=self._kind,
            connected=self._is_connected,
            revision=self._revision,
            endpoint=self._endpoint,
            problem=self._problem,
        )

    def answered(self, endpoint: str, revision: int = 0) -> None:
        """The store answered; `revision` 0 when the answer names none."""
        if revision:
            self._revision = revision
        self._is_connected = True
        self._endpoint = endpoint
        self._problem = None
        self._complaint.clear()
        if not self._is_told_connected:
            self._is_told_connected = True
            fields = {"store": self._kind, "endpoint": endpoint, "revision": self._revision}
            log.info("store connected", extra={"fields": fields})

    def failed(self, endpoint: str, problem: str) -> None:
        """The store did not answer, or refused us."""
        self._is_connected = False
        self._endpoint = endpoint
        self._problem = problem
        if self._complaint.due(self._clock(), problem):
            self._is_told_connected = False
            fields: dict[str, object] = {"store": self._kind, "endpoint": endpoint}
            log.warning(
                "store does not answer, trying again",
                extra={"fields": {**fields, "error": problem, **self._complaint.omissions()}},
            )
