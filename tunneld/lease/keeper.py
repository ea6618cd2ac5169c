"""Gets a lease for this node and keeps it: the loop around the pure rooms.

Path of a lease: `lease.allocation`, `lease.ownership` -> **`lease.keeper`** -> `store`.
The write decides, never the table: every claim names the revision it expects. A host cut off
from its store goes on past the end of its lease (`degraded`); only the store's word ends it.

Source: flannel `pkg/subnet/etcd/local_manager.go` and `main.go` (time to live, renew margin).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Literal

from tunneld.errors import (
    GrantLostError,
    LeaseError,
    StoreError,
    SubnetExhaustedError,
    SubnetTakenError,
)
from tunneld.lease.allocation import Candidate, Shuffler, came_second, candidates
from tunneld.lease.attendance import Attendance
from tunneld.lease.model import Lease, LeaseAttributes, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ownership import Held, Unrecorded, Verdict, is_behind, judge
from tunneld.lease.registry import Claim, Grant, Store
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Periodic

State = Literal["none", "held", "degraded", "lost"]

MAX_ROUNDS = 32
"""Listings read before losing every race counts as a failure, to be tried again later."""

FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
"""Waits between attempts to renew while the store is away; each is twice the one before."""

MIN_INTERVAL_S = 0.1

_log = logging.getLogger("tunneld.lease")


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


class Keeper:
    """This node's lease: how it is got, kept, taken back and given up."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str,
        machine: str | None = None,
        new_node_id: Callable[[bool], str] = lambda _is_copy: secrets.token_hex(16),
        version: str,
        ttl_s: float,
        renew_margin_s: float,
        rng: Shuffler,
    ) -> None:
        """Knows no lease yet.

        Args:
            store: where leases are.
            node_id: by which this node knows its lease again.
            machine: what tells the machine, as in `lease.kinship`.
            new_node_id: makes this a new node and returns its id; True: what was remembered under
                the former id is another host's.
            version: of tunneld, for the record.
            ttl_s: life of the lease, in seconds.
            renew_margin_s: how long before its end the lease is renewed at the latest.
            rng: chooses among free subnets.
        """
        self._attendance = Attendance(
            store, node_id=node_id, machine=machine, version=version, new_node_id=new_node_id
        )
        self._interval_s = renewal_interval_s(ttl_s, renew_margin_s)
        self._store = store
        self._ttl_s = ttl_s
        self._rng = rng
        self._lease: Lease | None = None
        self._history = 0
        self._grant: Grant | None = None
        self._granted_at_s = 0.0
        self._is_lost = False
        self._attempted: list[LeaseAttributes] = []
        """What was tried to write since the last write that was answered."""
        self._is_due = False
        """Whether it is not known how long ago the grant was given its time."""
        self._renewal_error: str | None = None
        self._acquiring = asyncio.Lock()
        self._regranted = asyncio.Event()
        self._complaint = Periodic()
        self._rewrites = Periodic()

    @property
    def node_id(self) -> str:
        """By which this node knows its lease again."""
        return self._attendance.node_id

    @property
    def lease(self) -> Lease | None:
        """The lease as this node wrote it last."""
        return self._lease

    @property
    def expires_at_s(self) -> float | None:
        """When the lease ends unless it is renewed, on the monotonic clock."""
        if self._lease is None or self._grant is None:
            return None
        return self._granted_at_s + self._grant.ttl_s

    @property
    def state(self) -> State:
        """`degraded`: past its end, and the store has not answered since."""
        if self._lease is None:
            return "none"
        if self._is_lost:
            return "lost"
        expires_at_s = self.expires_at_s
        is_over = expires_at_s is not None and _now() >= expires_at_s
        return "degraded" if is_over else "held"

    @property
    def problem(self) -> str | None:
        """What is wrong with the lease, in one line."""
        match self.state:
            case "lost":
                return "the lease is lost; taking it back"
            case "degraded":
                return (
                    "the lease could not be renewed and is past its end; going on with it "
                    f"until the store answers: {self._renewal_error}"
                )
            case _:
                return self._renewal_error and f"the lease is not renewed: {self._renewal_error}"

    def observe(self, tracker: LeaseTracker) -> Verdict:
        """Returns what the lease table says about the lease; `acquire` again unless `Held`."""
        if self._lease is None:
            return Held()
        verdict = judge(tracker, self._lease, history=self._history, node_id=self.node_id)
        match verdict:
            case Held(listed):
                self._lease = listed or self._lease
            case Unrecorded():
                # Written again in place; the lease itself is in force.
                pass
            case _:
                self._is_lost = True
        return verdict

    async def acquire(
        self,
        tracker: LeaseTracker,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: SubnetKey | None = None,
    ) -> Lease:
        """Gets a lease with these attributes, and writes the one that is held anew.

        The first look is at `tracker`; after a lost race, or where it may be a listing from
        before the last write, the store is asked.

        Raises:
            SubnetExhaustedError: no subnet is free.
            LeaseError: others were faster each time.
            StoreError: the store does not answer, or refuses us.
        """
        async with self._acquiring:
            history = tracker.history
            is_fresh = history == 0 or is_behind(tracker, self._lease)
            view = await self._store.read() if is_fresh else tracker.view
            races = _Races()
            # What was remembered counts like what the store says, while the address is the same.
            held = self._lease
            if held is not None and is_fresh and self._stands(held, view, config, attributes):
                self._history, self._is_lost = history, False
                return held
            if held is not None and self._is_due and held.holder != attributes.holder:
                held = None
            roll = self._attendance.roll(attributes.holder, held, previous)
            for _ in range(MAX_ROUNDS):
                held = roll.held = self._as_written(held, view)
                if not await roll.is_complete(view, tracker):
                    view, is_fresh = await self._store.read(), True
                    continue
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
                            past=self._attendance.past,
                            unanswered=roll.silent,
                            blocked=races.blocked,
                        ),
                        attributes,
                        grant,
                        races,
                    )
                except GrantLostError:
                    self._grant = None
                    found = None
                except SubnetExhaustedError:
                    if is_fresh:
                        raise
                    found = None
                if found is None:
                    view, is_fresh = await self._store.read(), True
                    continue
                candidate, lease = found
                history = tracker.history
                if _may_collide(candidate):
                    after = await self._store.read()
                    if came_second(lease, after.leases):
                        # The next round gives up what another host was the first to have.
                        view, is_fresh, held = after, True, lease
                        continue
                self._report(candidate, lease)
                self._lease, self._history, self._is_lost = lease, history, False
                self._is_due = False
                self._attempted = []
                self._attendance.has_written()
                return lease
        networks = " and ".join(str(pool.network) for pool in config.pools)
        raise LeaseError(
            f"no subnet of {networks} could be leased: other nodes were faster in "
            f"{MAX_ROUNDS} rounds; trying again later"
        )

    def adopt(self, lease: Lease, left_s: float, tracker: LeaseTracker) -> None:
        """Goes on with a lease of an earlier run, `left_s` seconds before its end.

        For a start without a store: `tracker` holds what was remembered, and the next listing
        judges whether the lease is still ours. A clock that was set since makes of `left_s`
        anything; no lease lasts longer than its life, and this one is renewed at the first
        chance.
        """
        left_s = min(left_s, self._ttl_s)
        self._is_due = True
        self._lease, self._history, self._is_lost = lease, tracker.history, False
        self._grant = Grant(grant_id=lease.grant_id, ttl_s=self._ttl_s)
        self._granted_at_s = _now() + left_s - self._ttl_s
        _log.warning(
            "the store is away; going on with the remembered lease",
            extra={"fields": {"subnet": str(lease.key), "wait_s": left_s}},
        )

    async def keep(self) -> None:
        """Renews the lease in time, until cancelled. Goes on while the store is away.

        Raises:
            GrantLostError: the store has ended the lease; `acquire` and call again.
        """
        retry_s = 0.0
        while True:
            grant = self._grant
            if grant is None:
                raise GrantLostError("there is no grant to renew; acquire a lease first")
            if self._is_due:
                due_s = retry_s
            else:
                due_s = retry_s or self._granted_at_s + self._interval_s - _now()
            if await self._is_regranted_within(due_s, is_retry=retry_s > 0):
                retry_s = 0.0
                continue
            asked_at_s = _now()
            try:
                renewed = await self._store.keep_alive(grant)
            except StoreError as error:
                retry_s = self._next_retry_s(retry_s)
                self._renewal_failed(str(error), retry_s)
            except GrantLostError as error:
                if self._grant is not grant:
                    continue
                self._grant = None
                self._is_lost = True
                _log.error(
                    "the store has ended the lease",
                    extra={"fields": {"subnet": str(self._lease and self._lease.key)}},
                )
                raise GrantLostError(str(error)) from error
            else:
                retry_s = 0.0
                if self._grant is grant:
                    self._renewed(renewed, asked_at_s)

    async def answer(self, tracker: LeaseTracker) -> None:
        """Answers for the own lease, and leaves the node id to who writes under it from elsewhere.

        To be called after every change of the table.

        Raises:
            StoreError: the store does not answer, or refuses us.
            GrantLostError: the lease has ended.
        """
        lease, grant = self._lease, self._grant
        if lease is None or grant is None or self._is_lost or self._is_due:
            return
        # A table that has it otherwise is not one to judge records by: `acquire` writes both anew.
        verdict = judge(tracker, lease, history=self._history)
        is_there = isinstance(verdict, Held) and verdict.listed is not None
        if is_there and not self._acquiring.locked():
            await self._attendance.answer(tracker, lease, grant, now_s=_now())

    async def leave(self) -> bool:
        """Gives the lease up; True when it is gone from the store, and nobody else's was touched.

        Raises:
            StoreError: the store does not answer, or refuses us.
        """
        async with self._acquiring:
            lease = self._lease
            if lease is None:
                return True
            is_gone = await self._store.withdraw(lease, self._attendance.node_id)
            self._lease, self._grant = None, None
        facts = {"subnet": str(lease.key)}
        if is_gone:
            _log.info("lease given up", extra={"fields": facts})
        else:
            _log.warning("the lease was another node's already", extra={"fields": facts})
        return is_gone

    def _stands(
        self, held: Lease, view: Snapshot, config: NetworkConfig, attributes: LeaseAttributes
    ) -> bool:
        """Returns whether the store has lease and record just so: there is nothing to write."""
        is_wanted = held.attributes == attributes and config.admits(held.key)
        if not is_wanted or self._grant is None or self._grant.grant_id != held.grant_id:
            return False
        return held in view.leases and any(
            record.node_id == self.node_id and record.describes(held) for record in view.records
        )

    def _as_written(self, held: Lease | None, view: Snapshot) -> Lease | None:
        """Returns the lease as a write of ours has left it whose answer nobody waited for."""
        for lease in view.leases if held is not None and self._attempted else ():
            is_same = held is not None and (lease.key, lease.grant_id) == (held.key, held.grant_id)
            if is_same and lease.attributes in self._attempted:
                return lease
        return held

    async def _try_each(
        self,
        choices: Iterable[Candidate],
        attributes: LeaseAttributes,
        grant: Grant,
        races: _Races,
    ) -> tuple[Candidate, Lease] | None:
        """Claims the first candidate nobody snatches; None: look at the store again."""
        for candidate in choices:
            self._attempted.append(attributes)
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

    async def _usable_grant(self) -> Grant:
        """Returns the grant in use, or a new one when there is none or its time is over."""
        if self._grant is not None and _now() < self._granted_at_s + self._grant.ttl_s:
            return self._grant
        asked_at_s = _now()
        grant = await self._store.grant(self._ttl_s)
        self._renewed(grant, asked_at_s)
        self._regranted.set()
        return grant

    def _renewed(self, grant: Grant, asked_at_s: float) -> None:
        # The time of asking: the store's count cannot have begun before it.
        self._grant, self._granted_at_s, self._is_due = grant, asked_at_s, False
        if self._renewal_error is not None:
            self._renewal_error = None
            _log.info("the lease is renewed again", extra={"fields": {"ttl_s": grant.ttl_s}})

    def _renewal_failed(self, error: str, wait_s: float) -> None:
        self._renewal_error = error
        if self._complaint.due(_now(), self.state):
            _log.warning(
                "the lease cannot be renewed",
                extra={"fields": {"state": self.state, "wait_s": wait_s, "error": error}},
            )

    def _next_retry_s(self, last_s: float) -> float:
        first_s = min(FIRST_RETRY_S, self._ttl_s / 10)
        most_s = min(LAST_RETRY_S, self._interval_s)
        return min(last_s * 2, most_s) if last_s else min(first_s, most_s)

    async def _is_regranted_within(self, wait_s: float, *, is_retry: bool) -> bool:
        """Waits, and returns True at once when `acquire` has changed the grant meanwhile.

        A retry does not wait any longer once the store is back, as others find out first.
        """
        end_s = _now() + max(wait_s, 0.0)
        while True:
            was_away = not self._store.status().connected
            left_s = max(end_s - _now(), 0.0)
            try:
                # Not wait_for: before Python 3.12 it may lose a cancellation.
                async with asyncio.timeout(min(left_s, FIRST_RETRY_S) if is_retry else left_s):
                    await self._regranted.wait()
            except TimeoutError:
                is_back = was_away and self._store.status().connected
                if not is_retry or is_back or _now() >= end_s:
                    return False
            else:
                self._regranted.clear()
                return True

    def _report(self, candidate: Candidate, lease: Lease) -> None:
        former = self._lease
        facts = {
            "subnet": str(lease.key),
            "public_ip": str(lease.holder),
            "reason": candidate.origin,
            "revision": lease.mod_revision,
        }
        if former is None:
            _log.info("lease acquired", extra={"fields": facts})
        elif former.key == lease.key:
            # Somebody may take it away all the time.
            if self._rewrites.due(_now(), lease.mod_revision):
                _log.warning(
                    "the lease is written anew, in place",
                    extra={"fields": {**facts, **self._rewrites.omissions()}},
                )
        else:
            _log.error(
                "the lease was lost; this host has another subnet: restart what used the old one",
                extra={"fields": {**facts, "detail": f"former subnet {former.key}"}},
            )


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


def _now() -> float:
    return asyncio.get_running_loop().time()
