"""Whether this node still holds its lease, as the lease table tells it.

Path of a lease: `lease.tracker` -> **`lease.ownership`** -> `lease.keeper`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tunneld.lease.model import Lease
from tunneld.lease.tracker import LeaseTracker


@dataclass(frozen=True, slots=True)
class Held:
    """The lease is ours, or the table is too old to say."""

    listed: Lease | None = field(default=None, compare=False)
    """The lease as the table has it; a restored store may have it at another revision."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """Nobody holds the subnet: the lease was deleted, has ended, or the store lost it."""


@dataclass(frozen=True, slots=True)
class Overwritten:
    """The key holds what we did not write."""

    by: Lease


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """The lease is ours, but nothing says so any more: the record beside it is gone."""


def is_behind(tracker: LeaseTracker, own: Lease | None) -> bool:
    """Returns whether the table may be from before `own` was written; the store must tell.

    So it is with a listing that was under way meanwhile, and with a store that was restored.
    """
    return own is not None and tracker.revision < own.mod_revision


Verdict = Held | Deleted | Overwritten | Unrecorded


def judge(
    tracker: LeaseTracker, own: Lease, *, history: int | None = None, node_id: str | None = None
) -> Verdict:
    """Returns what the table says about `own`, the lease as this node wrote it last.

    With `node_id` it also looks for that node's record. One that says something else is another
    matter: there may be two hosts with one id.

    `history` is the tracker's at the time of that write. A listing made since then judges even
    at a lower revision: a store restored from a backup counts from there.
    """
    is_same_history = history is None or tracker.history == history
    if is_same_history and tracker.revision < own.mod_revision:
        return Held()
    found = tracker.lease(own.key)
    if found is None:
        return Deleted()
    if found.grant_id != own.grant_id or found.attributes != own.attributes:
        return Overwritten(found)
    if node_id is not None and tracker.record(node_id) is None:
        return Unrecorded()
    return Held(found)
