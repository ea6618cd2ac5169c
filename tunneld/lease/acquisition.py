"""Gets a lease: looks at the table, claims the best candidate, looks again when it was snatched.

Path of a lease: `lease.allocation`, `lease.attendance` -> **`lease.acquisition`** -> `store`.
The write decides, never the table: every claim names the revision it expects.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from tunneld.errors import (
    GrantLostError,
    LeaseError,
    SubnetExhaustedError,
    SubnetTakenError,
)
from tunneld.lease.allocation import Candidate, Shuffler, candidates
from tunneld.lease.attendance import Attendance
from tunneld.lease.former import former_key, missed
from tunneld.lease.life import Life
from tunneld.lease.model import Lease, LeaseAttributes, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ownership import is_behind
from tunneld.lease.precedence import came_second
from tunneld.lease.registry import Claim, Grant, Store
from tunneld.lease.tracker import LeaseTracker

MAX_ROUNDS = 32
"""Listings read before losing every race counts as a failure, to be tried again later."""


@dataclass(frozen=True, slots=True)
class Acquired:
    """A lease as the store has it."""

    lease: Lease
    candidate: Candidate | None
    """What was claimed; None: the lease and its record stood there just so."""
    missed: str | None = None
    """What this host had before and has not any more, in one line, and who has it."""


class Acquisition:
    """Writes the lease of one node, one at a time: the caller sees to that."""

    def __init__(
        self,
        store: Store,
        attendance: Attendance,
        life: Life,
        *,
        rng: Shuffler,
        usable_grant: Callable[[], Awaitable[Grant]],
    ) -> None:
        """`usable_grant` returns the grant in use, or a new one when its time is over."""
        self._store = store
        self._attendance = attendance
        self._life = life
        self._rng = rng
        self._usable_grant = usable_grant

    async def run(
        self,
        tracker: LeaseTracker,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: SubnetKey | None,
    ) -> Acquired:
        """Writes a lease with these attributes.

        The first look is at `tracker`; after a lost race, or where it may be a listing from
        before the last write, the store is asked.

        Raises:
            SubnetExhaustedError: no subnet is free.
            LeaseError: others were faster each time.
            StoreError: the store does not answer, or refuses us.
        """
        life, attendance = self._life, self._attendance
        history = tracker.history
        is_fresh = history == 0 or is_behind(tracker, life.lease)
        view = await self._store.read() if is_fresh else tracker.view
        # What was remembered counts like what the store says, while the address is the same.
        held = life.lease
        if (
            held is not None
            and is_fresh
            and life.stands(view, config, attributes, attendance.node_id, attendance.encryption)
        ):
            life.confirmed(history)
            return Acquired(held, None)
        if held is not None and life.is_adopted and held.holder != attributes.holder:
            held = None
        races, node_id = _Races(), attendance.node_id
        former = former_key(view, node_id, held=held, recalled=life.recalled, previous=previous)
        roll = attendance.roll(attributes.holder, held, previous)
        for _ in range(MAX_ROUNDS):
            held = roll.held = life.as_written(held, view)
            if not await roll.is_complete(view, tracker):
                view, is_fresh = await self._store.read(), True
                continue
            if attendance.node_id != node_id and held is None:
                # What was known before is the other host's.
                former = life.recalled = None
            grant = await self._usable_grant()
            try:
                found = await self._try_each(
                    candidates(
                        view,
                        me=roll.me,
                        config=config,
                        rng=self._rng,
                        previous=previous,
                        held=held,
                        recalled=life.recalled,
                        past=attendance.past,
                        unanswered=roll.silent,
                        blocked=races.blocked,
                    ),
                    attributes,
                    grant,
                    races,
                )
            except GrantLostError:
                life.grant = None
                found = None
            except SubnetExhaustedError:
                if is_fresh:
                    raise
                found = None
            if found is None:
                view, is_fresh = await self._store.read(), True
                continue
            history = tracker.history
            candidate, lease = found
            if _may_collide(candidate):
                after = await self._store.read()
                if came_second((lease,), after.leases):
                    # The next round gives up what another host was the first to have.
                    view, is_fresh, held = after, True, lease
                    continue
            life.written(lease, history)
            attendance.has_written()
            if held is None and lease.create_revision != lease.mod_revision:
                # It was this host's already: what it had before it has been told of.
                former = None
            return Acquired(lease, candidate, missed(former, lease, view, config))
        networks = " and ".join(str(pool.network) for pool in config.pools)
        raise LeaseError(
            f"no subnet of {networks} could be leased: other nodes were faster in "
            f"{MAX_ROUNDS} rounds; trying again later"
        )

    async def _try_each(
        self,
        choices: Iterable[Candidate],
        attributes: LeaseAttributes,
        grant: Grant,
        races: _Races,
    ) -> tuple[Candidate, Lease] | None:
        """Claims the first candidate nobody snatches; None: look at the store again."""
        for candidate in choices:
            self._life.attempts(attributes)
            self._attendance.writes(candidate.key, attributes.holder, grant)
            record = self._attendance.record(Lease(key=candidate.key, attributes=attributes))
            try:
                lease = await self._store.claim(
                    Claim(
                        key=candidate.key,
                        attributes=attributes,
                        record=record,
                        grant=grant,
                        expected_revision=candidate.expected_revision,
                        drop=candidate.drop,
                        reservation=candidate.reservation,
                    )
                )
            except SubnetTakenError:
                races.lost(candidate)
                if candidate.origin != "free":
                    # What we wanted most has changed: it may be ours still, at another revision.
                    return None
            else:
                return candidate, lease
        return None


class _Races:
    """Claims that were lost while one lease was acquired."""

    def __init__(self) -> None:
        self._lost: set[tuple[SubnetKey, int]] = set()
        self.blocked: set[SubnetKey] = set()
        """Lost twice at one revision: the table does not show what stands there."""

    def lost(self, candidate: Candidate) -> None:
        claim = (candidate.key, candidate.expected_revision)
        if claim in self._lost:
            self.blocked.add(candidate.key)
        self._lost.add(claim)


def _may_collide(candidate: Candidate) -> bool:
    """Returns whether another host may have written one of its subnets under another key."""
    return candidate.expected_revision == 0 and candidate.key.ipv6 is not None
