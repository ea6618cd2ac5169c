"""Whether the store answers: what `status` says of it, and one log line per change.

Path of a lease: beside it. Both stores report each success and failure here.
A store that stays away is worth a line a minute, not a line per attempt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tunneld.lease.registry import StoreStatus
from tunneld.log import Condition

log = logging.getLogger("tunneld.store")

_CONNECTED = "store connected"


class Health:
    """State of the connection to a store."""

    def __init__(
        self, kind: str, endpoint: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kind = kind
        self._endpoint = endpoint
        self._clock = clock
        self._is_connected = False
        self._revision = 0
        self._is_first = True
        """Whether nothing has been heard of the store yet."""
        self._lack = Condition(log, "store does not answer, trying again", _CONNECTED)

    def status(self) -> StoreStatus:
        """Returns what is known."""
        return StoreStatus(
            kind=self._kind,
            connected=self._is_connected,
            revision=self._revision,
            endpoint=self._endpoint,
            problem=self._lack.problem,
        )

    def answered(self, endpoint: str, revision: int = 0) -> None:
        """The store answered; `revision` 0 when the answer names none."""
        if revision:
            self._revision = revision
        self._is_connected = True
        self._endpoint = endpoint
        fields = {"store": self._kind, "endpoint": endpoint, "revision": self._revision}
        if self._is_first:
            log.info(_CONNECTED, extra={"fields": fields})
        self._is_first = False
        self._lack.clear(**fields)

    def failed(self, endpoint: str, problem: str) -> None:
        """The store did not answer, or refused us."""
        self._is_connected = False
        self._endpoint = endpoint
        self._is_first = False
        self._lack.set(self._clock(), problem, store=self._kind, endpoint=endpoint)
