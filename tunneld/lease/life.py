"""The life of this node's lease: granted, due for renewal, past its end, lost. Pure.

Path of a lease: `lease.ownership` -> **`lease.life`** -> `lease.acquisition`, `lease.keeper`.
The time is passed in as `now_s`: seconds on a clock that never goes back. It may jump ahead, as
when the host was suspended.

Source: flannel `pkg/subnet/etcd/local_manager.go` and `main.go` (time to live, renew margin).
"""

from __future__ import annotations

from typing import Literal

from tunneld.errors import LeaseError
from tunneld.lease.model import Lease, LeaseAttributes, RecordEncryption, Snapshot, Unreadable
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ownership import Held, Unrecorded, Verdict, judge
from tunneld.lease.registry import Grant
from tunneld.lease.tracker import LeaseTracker

State = Literal["none", "held", "degraded", "lost"]

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
"""Waits between attempts to renew while the store is away; each is twice the one before."""

MIN_INTERVAL_S = 0.1


def renewal_interval_s(ttl_s: float, margin_s: float) -> float:
    """Returns how long after a grant was given its time it is renewed.

    At a third of the time, so that two attempts may fail; sooner when the margin asks for it.
    A margin of the whole time or more cannot be kept and does not count.

    Raises:
        LeaseError: the time to live is not positive.
    """
    if ttl_s <= 0:
        raise LeaseError(
            f"time to live of {ttl_s:g} s: expected more than 0; set --lease-ttl, like 24h"
        )
    third = ttl_s / 3
    if margin_s >= ttl_s:
        return third
    return min(third, max(ttl_s - margin_s, MIN_INTERVAL_S))


class Life:
    """What this node knows of its lease, and when it has to do something for it."""

    def __init__(self, *, ttl_s: float, renew_margin_s: float) -> None:
        """Knows no lease yet; the arguments are those of `lease.keeper.Keeper`."""
        self.ttl_s = ttl_s
        self._interval_s = renewal_interval_s(ttl_s, renew_margin_s)
        self.lease: Lease | None = None
        """The lease as this node wrote it last."""
        self.grant: Grant | None = None
        self.is_lost = False
        self.is_adopted = False
        """Whether an earlier run's lease is held, and the store has not answered for it yet."""
        self.recalled: Lease | None = None
        """The lease as an earlier run wrote it last; one that is held knows better."""
        self._history = 0
        self._ends_s = 0.0
        self._renews_s = 0.0
        self._retries_s: float | None = None
        self._retry_s = 0.0
        """The wait before the next retry; 0.0: the last renewal succeeded."""
        self._error: str | None = None
        """Why the last renewal failed."""
        self._attempted: list[LeaseAttributes] = []
        """What was tried to write since the last write that was answered."""

    @property
    def expires_at_s(self) -> float | None:
        """When the lease ends unless it is renewed."""
        return None if self.lease is None or self.grant is None else self._ends_s

    @property
    def renews_at_s(self) -> float:
        """When the grant is to be renewed next; in the past: at once."""
        return self._renews_s if self._retries_s is None else self._retries_s

    @property
    def is_retrying(self) -> bool:
        """Whether the last renewal has failed."""
        return self._retries_s is not None

    def state(self, now_s: float) -> State:
        """Returns how it is; `degraded`: past its end, and the store has not answered since."""
        if self.lease is None:
            return "none"
        if self.is_lost:
            return "lost"
        is_over = self.grant is not None and now_s >= self._ends_s
        return "degraded" if is_over else "held"

    def problem(self, now_s: float) -> str | None:
        """Returns what is wrong with the lease, in one line."""
        match self.state(now_s):
            case "lost":
                return "the lease is lost; taking it back"
            case "degraded" if self._error is None:
                return "the lease is past its end; renewing it"
            case "degraded":
                return (
                    "the lease could not be renewed and is past its end; going on with it "
                    f"until the store answers: {self._error}"
                )
            case _:
                return self._error and f"the lease is not renewed: {self._error}"

    def usable_grant(self, now_s: float) -> Grant | None:
        """Returns the grant in use, unless its time is over."""
        return self.grant if now_s < self._ends_s else None

    def is_listed(self, tracker: LeaseTracker) -> bool:
        """Returns whether the table has the lease as it was written, records aside."""
        if self.lease is None:
            return False
        verdict = judge(tracker, self.lease, history=self._history)
        return isinstance(verdict, Held) and verdict.listed is not None

    def observe(self, tracker: LeaseTracker, node_id: str) -> Verdict:
        """Returns what the table says about the lease, and takes it for lost if it says so."""
        if self.lease is None:
            return Held()
        verdict = judge(tracker, self.lease, history=self._history, node_id=node_id)
        match verdict:
            case Held(listed):
                self.lease = listed or self.lease
            case Unrecorded():
                # Written again in place; the lease itself is in force.
                pass
            case _:
                self.is_lost = True
        return verdict

    def granted(self, grant: Grant, asked_s: float) -> bool:
        """The grant has its full time; returns whether it could not be renewed before.

        `asked_s` is when it was asked for: the store's count cannot have begun before it.
        """
        was_refused = self._error is not None
        self.grant, self.is_adopted, self._error = grant, False, None
        self._ends_s = asked_s + grant.ttl_s
        self._renews_s = asked_s + self._interval_s
        self.hurry()
        return was_refused

    def refused(self, error: str, now_s: float) -> float:
        """A renewal has failed; returns the seconds until the next attempt."""
        most_s = min(LAST_RETRY_S, self._interval_s)
        first_s = min(FIRST_RETRY_S, self.ttl_s / 10)
        self._retry_s = min(self._retry_s * 2 or first_s, most_s)
        self._retries_s = now_s + self._retry_s
        self._error = error
        return self._retry_s

    def hurry(self) -> None:
        """Forgets that renewals have failed: the next attempt need not wait."""
        self._retry_s, self._retries_s = 0.0, None

    def ended(self) -> None:
        """The store has ended the grant."""
        self.grant, self.is_lost = None, True

    def adopt(self, lease: Lease, left_s: float, history: int, now_s: float) -> float:
        """Goes on with a lease of an earlier run; returns how many seconds before its end.

        A clock that was set since makes of `left_s` anything; no lease lasts longer than its
        life, and this one is renewed at the first chance.
        """
        left_s = min(left_s, self.ttl_s)
        self.lease, self._history, self.is_lost = lease, history, False
        self.grant = Grant(grant_id=lease.grant_id, ttl_s=self.ttl_s)
        self.is_adopted = True
        self._ends_s, self._renews_s = now_s + left_s, now_s
        return left_s

    def attempts(self, attributes: LeaseAttributes) -> None:
        """A lease that says this is about to be written; the answer may never come."""
        self._attempted.append(attributes)

    def written(self, lease: Lease, history: int) -> None:
        """The store has the lease so; `history` is the table's at that time."""
        self.recalled = None
        self.lease, self._history, self.is_lost = lease, history, False
        self.is_adopted = False
        self._attempted = []

    def confirmed(self, history: int) -> None:
        """The store has lease and record as they were written."""
        self._history, self.is_lost = history, False

    def given_up(self) -> None:
        """The lease was withdrawn."""
        self.lease = self.grant = None

    def as_written(self, held: Lease | None, view: Snapshot) -> Lease | None:
        """Returns `held` as a write of ours has left it whose answer nobody waited for."""
        for lease in view.leases if held is not None and self._attempted else ():
            is_same = held is not None and (lease.key, lease.grant_id) == (held.key, held.grant_id)
            if is_same and lease.attributes in self._attempted:
                return lease
        return held

    def stands(
        self,
        view: Snapshot,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        node_id: str,
        encryption: RecordEncryption | Unreadable | None,
    ) -> bool:
        """Returns whether the store has lease and record just so: there is nothing to write."""
        held = self.lease
        if held is None or held.attributes != attributes or not config.admits(held.key):
            return False
        if self.grant is None or self.grant.grant_id != held.grant_id:
            return False
        return held in view.leases and any(
            (record.node_id, record.encryption) == (node_id, encryption) and record.describes(held)
            for record in view.records
        )
