"""Gets a lease for this node and keeps it: the thin loop around what decides.

Path of a lease: `lease.life`, `lease.acquisition` -> **`lease.keeper`** -> `store`.
A host cut off from its store goes on past the end of its lease (`degraded`); only the store's
word ends it. The clock comes from outside; the rules are in `lease.life`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from tunneld.errors import GrantLostError, StoreError
from tunneld.lease.acquisition import Acquired, Acquisition
from tunneld.lease.allocation import Shuffler
from tunneld.lease.attendance import Attendance
from tunneld.lease.life import FIRST_RETRY_S, Life, State
from tunneld.lease.model import Lease, LeaseAttributes, RecordEncryption, SubnetKey, Unreadable
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ownership import Verdict
from tunneld.lease.registry import Grant, Store
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Periodic

LOOK_S = 5.0
"""How often the clock is looked at while nothing is due: it counts what timers may not, the time
that a host is suspended."""

_log = logging.getLogger("tunneld.lease")


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
        clock: Callable[[], float],
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
            clock: returns seconds that never go back.
        """
        self._life = Life(ttl_s=ttl_s, renew_margin_s=renew_margin_s)
        self._attendance = Attendance(
            store, node_id=node_id, machine=machine, version=version, new_node_id=new_node_id
        )
        self._acquisition = Acquisition(
            store, self._attendance, self._life, rng=rng, usable_grant=self._usable_grant
        )
        self._store = store
        self._clock = clock
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
        return self._life.lease

    @property
    def left_s(self) -> float | None:
        """Seconds until the lease ends unless it is renewed; negative: since it has."""
        expires_at_s = self._life.expires_at_s
        return None if expires_at_s is None else expires_at_s - self._clock()

    @property
    def state(self) -> State:
        """How the lease is."""
        return self._life.state(self._clock())

    @property
    def problem(self) -> str | None:
        """What is wrong with the lease, in one line."""
        return self._life.problem(self._clock())

    def observe(self, tracker: LeaseTracker) -> Verdict:
        """Returns what the lease table says about the lease; `acquire` again unless `Held`."""
        return self._life.observe(tracker, self.node_id)

    async def acquire(
        self,
        tracker: LeaseTracker,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: SubnetKey | None = None,
    ) -> Lease:
        """Gets a lease with these attributes, and writes the one that is held anew.

        `previous` is the subnet of the old subnet.env.

        Raises:
            SubnetExhaustedError: no subnet is free.
            LeaseError: others were faster each time.
            StoreError: the store does not answer, or refuses us.
        """
        async with self._acquiring:
            former = self._life.lease
            acquired = await self._acquisition.run(tracker, config, attributes, previous)
            self._report(acquired, former)
            return acquired.lease

    def adopt(self, lease: Lease, left_s: float, tracker: LeaseTracker) -> None:
        """Goes on with a lease of an earlier run, `left_s` seconds before its end.

        For a start without a store: `tracker` holds what was remembered, and the next listing
        judges whether the lease is still ours.
        """
        left_s = self._life.adopt(lease, left_s, tracker.history, self._clock())
        _log.warning(
            "the store is away; going on with the remembered lease",
            extra={"fields": {"subnet": str(lease.key), "wait_s": left_s}},
        )

    def recall(self, lease: Lease) -> None:
        """Says what an earlier run of this host wrote last, whether or not its time is over.

        By it a lease is known again that was written over while nobody ran, and one that is
        another host's by now is named.
        """
        self._life.recalled = lease

    async def keep(self) -> None:
        """Renews the lease in time, until cancelled. Goes on while the store is away.

        Raises:
            GrantLostError: the store has ended the lease; `acquire` and call again.
        """
        life = self._life
        life.hurry()
        while True:
            grant = life.grant
            if grant is None:
                raise GrantLostError("there is no grant to renew; acquire a lease first")
            if await self._is_regranted_before_due():
                life.hurry()
                continue
            asked_s = self._clock()
            try:
                renewed = await self._store.keep_alive(grant)
            except StoreError as error:
                # Of a grant that `acquire` has replaced meanwhile it says nothing.
                if life.grant is grant:
                    self._renewal_failed(str(error))
            except GrantLostError as error:
                if life.grant is not grant:
                    life.hurry()
                    continue
                life.ended()
                _log.error(
                    "the store has ended the lease",
                    extra={"fields": {"subnet": str(life.lease and life.lease.key)}},
                )
                raise GrantLostError(str(error)) from error
            else:
                if life.grant is grant:
                    self._granted(renewed, asked_s)
                life.hurry()

    async def answer(self, tracker: LeaseTracker) -> None:
        """Answers for the own lease, and leaves the node id to who writes under it from elsewhere.

        To be called after every change of the table.

        Raises:
            StoreError: the store does not answer, or refuses us.
            GrantLostError: the lease has ended.
        """
        life = self._life
        lease, grant = life.lease, life.grant
        if lease is None or grant is None or life.is_lost or life.is_adopted:
            return
        # A table that has it otherwise is not one to judge records by: `acquire` writes both anew.
        if life.is_listed(tracker) and not self._acquiring.locked():
            await self._attendance.answer(tracker, lease, grant, now_s=self._clock())

    def publish(self, encryption: RecordEncryption | Unreadable | None) -> None:
        """Has the record say this of keys from its next writing on; `answer` writes it at once."""
        self._attendance.encryption = encryption

    async def leave(self) -> bool:
        """Gives the lease up; True when it is gone from the store, and nobody else's was touched.

        Raises:
            StoreError: the store does not answer, or refuses us.
        """
        async with self._acquiring:
            lease = self._life.lease
            if lease is None:
                return True
            is_gone = await self._store.withdraw(lease, self._attendance.node_id)
            self._life.given_up()
        facts = {"subnet": str(lease.key)}
        if is_gone:
            _log.info("lease given up", extra={"fields": facts})
        else:
            _log.warning("the lease was another node's already", extra={"fields": facts})
        return is_gone

    async def _usable_grant(self) -> Grant:
        """Returns the grant in use, or a new one when there is none or its time is over."""
        asked_s = self._clock()
        if (grant := self._life.usable_grant(asked_s)) is not None:
            return grant
        grant = await self._store.grant(self._life.ttl_s)
        self._granted(grant, asked_s)
        self._regranted.set()
        return grant

    def _granted(self, grant: Grant, asked_s: float) -> None:
        if self._life.granted(grant, asked_s):
            _log.info("the lease is renewed again", extra={"fields": {"ttl_s": grant.ttl_s}})

    def _renewal_failed(self, error: str) -> None:
        now_s = self._clock()
        wait_s, state = self._life.refused(error, now_s), self._life.state(now_s)
        if self._complaint.due(now_s, state):
            _log.warning(
                "the lease cannot be renewed",
                extra={"fields": {"state": state, "wait_s": wait_s, "error": error}},
            )

    async def _is_regranted_before_due(self) -> bool:
        """Waits until the grant is to be renewed; True at once when `acquire` has changed it.

        A retry does not wait any longer once the store is back, as others find out first.
        """
        life = self._life
        while True:
            was_away = not self._store.status().connected
            left_s = max(life.renews_at_s - self._clock(), 0.0)
            try:
                # Not wait_for: before Python 3.12 it may lose a cancellation.
                async with asyncio.timeout(
                    min(left_s, FIRST_RETRY_S if life.is_retrying else LOOK_S)
                ):
                    await self._regranted.wait()
            except TimeoutError:
                is_back = was_away and self._store.status().connected
                if (life.is_retrying and is_back) or self._clock() >= life.renews_at_s:
                    return False
            else:
                self._regranted.clear()
                return True

    def _report(self, acquired: Acquired, former: Lease | None) -> None:
        lease, candidate = acquired.lease, acquired.candidate
        if candidate is None:
            return
        facts = {
            "subnet": str(lease.key),
            "public_ip": str(lease.holder),
            "reason": candidate.origin,
            "revision": lease.mod_revision,
        }
        if acquired.missed is not None:
            _log.error(
                "the lease was lost; this host has another subnet: restart what used the old one",
                extra={"fields": {**facts, "detail": acquired.missed}},
            )
        elif former is None or former.key != lease.key:
            _log.info("lease acquired", extra={"fields": facts})
        elif self._rewrites.due(self._clock(), lease.mod_revision):
            # Somebody may take it away all the time.
            _log.warning(
                "the lease is written anew, in place",
                extra={"fields": {**facts, **self._rewrites.omissions()}},
            )
