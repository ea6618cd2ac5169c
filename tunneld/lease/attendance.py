"""Who this node is among the others: its id, its record, and what becomes of both.

Path of a lease: `lease.kinship`, `lease.roll_call` -> **`lease.attendance`** -> `lease.keeper`.
A state directory that was copied makes two hosts one node. Whoever starts with it asks whether the
other lives, and becomes a node of its own if so; whoever runs and finds another's record under its
id does the same, and keeps its subnet.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection

from tunneld.lease.kinship import Identity, Kin, Written, are_apart, kin, machine_of
from tunneld.lease.model import (
    Holder,
    Lease,
    NodeRecord,
    RecordEncryption,
    Snapshot,
    SubnetKey,
    Unreadable,
)
from tunneld.lease.registry import Grant, Store
from tunneld.lease.roll_call import questions, record_of, unanswered
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Periodic

MAX_PAST = 256
"""Writes of our own that are remembered, the last ones."""

_log = logging.getLogger("tunneld.lease")


class Attendance:
    """This node's id and record, and its answers to others."""

    def __init__(
        self,
        store: Store,
        *,
        node_id: str,
        machine: str | None,
        version: str,
        new_node_id: Callable[[bool], str],
    ) -> None:
        """`new_node_id` is as `lease.keeper.Keeper` takes it."""
        self.node_id = node_id
        self.machine = machine
        self.version = version
        self.store = store
        self.encryption: RecordEncryption | Unreadable | None = None
        """What the record says of keys, at its next writing: only while their port listens."""
        self._new_node_id = new_node_id
        self._renaming = Periodic()
        self._telling = Periodic()
        self._own_question = ""
        self._answered: frozenset[str] = frozenset()
        """Ids of the questions that our record answers."""
        # Not kept over a restart: a copy of the state directory would know it as well.
        self._past: dict[Written, None] = {}

    @property
    def past(self) -> Collection[Written]:
        """What this process wrote, or tried to."""
        return self._past.keys()

    def writes(self, key: SubnetKey, holder: Holder, grant: Grant) -> None:
        """A lease is about to be written; the answer may never come."""
        written = (key, holder, grant.grant_id)
        self._past.pop(written, None)
        self._past[written] = None
        while len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]

    def record(self, lease: Lease) -> NodeRecord:
        """Returns the record beside a lease of ours."""
        return record_of(
            lease,
            node_id=self.node_id,
            version=self.version,
            machine=self.machine,
            encryption=self.encryption,
        )

    def new_question(self) -> str:
        """Returns an id for a question, which is not answered by ourselves."""
        self._own_question = secrets.token_hex(16)
        return self._own_question

    def has_written(self) -> None:
        """The record was written with the lease: it answers nothing."""
        self._answered = frozenset()

    def roll(self, holder: Holder, held: Lease | None, previous: SubnetKey | None) -> Roll:
        """Begins to find out which leases are ours; the arguments are those of `kinship.kin`."""
        return Roll(self, holder, held, previous)

    def become_another(self, theirs: Lease) -> None:
        """Leaves the node id to the host that holds a lease under it."""
        former, self.node_id = self.node_id, self._new_node_id(True)
        _log.error(
            "the state directory is a copy of another host's; this host becomes a node of its own",
            extra={
                "fields": {
                    "node_id": self.node_id,
                    "public_ip": str(theirs.holder),
                    "subnet": str(theirs.key),
                    "detail": f"the other host is node {former}",
                }
            },
        )

    async def answer(
        self, tracker: LeaseTracker, lease: Lease, grant: Grant, *, now_s: float
    ) -> None:
        """Answers for `lease`, which is ours, and says what is new of our keys.

        `tracker` is not older than it.

        Raises:
            StoreError: the store does not answer, or refuses us.
            GrantLostError: the grant has run out.
        """
        asked = [
            question
            for question in questions(tracker.records, lease)
            if question.node_id != self._own_question
        ]
        found = tracker.record(self.node_id)
        is_past = found is not None and not found.describes(lease) and self._is_past(found)
        twin = None if is_past else self._twin(found, lease, now_s)
        ids = frozenset(question.node_id for question in asked)
        has_news = found is not None and found.encryption != self.encryption
        if twin is None and not is_past and not has_news and ids <= self._answered:
            return
        if twin is not None:
            former, self.node_id = self.node_id, self._new_node_id(False)
            _log.error(
                "another host runs with a copy of this host's state directory; this host keeps "
                "its subnet, as another node",
                extra={
                    "fields": {
                        "node_id": self.node_id,
                        "public_ip": str(twin.holder),
                        "detail": f"the other host is node {former}",
                    }
                },
            )
        record = record_of(
            lease,
            node_id=self.node_id,
            version=self.version,
            machine=self.machine,
            encryption=self.encryption,
            answers=asked,
        )
        await self.store.write_record(record, grant)
        news = [question for question in asked if question.node_id not in self._answered]
        if news and self._telling.due(now_s):
            _log.warning(
                "another host asked for the lease of this one and was told that it is held; "
                "was its state directory copied from here, or does it have this address?",
                extra={
                    "fields": {
                        "public_ip": str(news[0].holder),
                        "subnet": str(lease.key),
                        "count": len(news),
                    }
                },
            )
        self._answered = ids

    def _is_past(self, record: NodeRecord) -> bool:
        """Returns whether this process wrote a record under its node id, for a former lease."""
        if are_apart(machine_of(record), self.machine):
            return False
        return any((key, holder) == (record.key, record.holder) for key, holder, _ in self._past)

    def _twin(self, found: NodeRecord | None, lease: Lease, now_s: float) -> NodeRecord | None:
        """Returns `found`, the record under our node id, if another host has written it."""
        if found is None or found.is_question:
            return None
        if found.describes(lease) and not are_apart(machine_of(found), self.machine):
            return None
        return found if self._renaming.due(now_s) else None


class Roll:
    """Which leases are ours, as far as has been asked."""

    def __init__(
        self,
        attendance: Attendance,
        holder: Holder,
        held: Lease | None,
        previous: SubnetKey | None,
    ) -> None:
        self._attendance = attendance
        self._holder = holder
        self.held = held
        """The lease as this process wrote it last, as far as that is known."""
        self._previous = previous
        self._asked: set[SubnetKey] = set()
        self._named: set[SubnetKey] = set()
        self.silent: set[SubnetKey] = set()
        """Leases for which nobody has answered."""

    @property
    def me(self) -> Identity:
        """Who is asking; a node id that turns out to be another's changes."""
        attendance = self._attendance
        return Identity(node_id=attendance.node_id, holder=self._holder, machine=attendance.machine)

    async def is_complete(self, view: Snapshot, tracker: LeaseTracker) -> bool:
        """Asks for what is in doubt in `view`; False: look at the store again.

        Raises:
            StoreError: the store does not answer, or refuses us.
        """
        doubtful = [
            one
            for one in kin(
                view,
                self.me,
                held=self.held,
                previous=self._previous,
                past=self._attendance.past,
            )
            if one.doubt != "none" and one.lease.key not in self.silent
        ]
        ask = [
            one.lease
            for one in doubtful
            if one.doubt == "live" and one.lease.key not in self._asked
        ]
        if ask:
            self.silent |= await unanswered(
                self._attendance.store,
                lambda: tracker.records,
                ask,
                question_id=self._attendance.new_question(),
                asker=self._holder,
                version=self._attendance.version,
            )
            self._asked |= {lease.key for lease in ask}
            return False
        if (theirs := _owned(doubtful)) is not None:
            self._attendance.become_another(theirs)
            return False
        for one in doubtful:
            self._name_rival(one.lease)
        return True

    def _name_rival(self, lease: Lease) -> None:
        if lease.key in self._named:
            return
        self._named.add(lease.key)
        _log.error(
            "a live host holds a lease with this host's address or of its old subnet; give each "
            "host an address of its own",
            extra={"fields": {"public_ip": str(lease.holder), "subnet": str(lease.key)}},
        )


def _owned(doubtful: list[Kin]) -> Lease | None:
    return next((one.lease for one in doubtful if one.origin == "owned"), None)
