"""Asks whether somebody lives who holds a lease, and answers for the own one.

Path of a lease: `lease.kinship` (whom to ask) -> **`lease.roll_call`** -> `lease.attendance`.

The question is a node record under an id of its own that names the leases asked for; its grant ends
it where its asker cannot. Who holds one of them writes its record again, with the question's id in
it. A version that does not know of this keeps both as members it does not know, and answers
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from tunneld.lease.kinship import MACHINE
from tunneld.lease.model import (
    ASKS,
    Holder,
    Lease,
    NodeRecord,
    RecordEncryption,
    SubnetKey,
    Unreadable,
)
from tunneld.lease.registry import Store

ANSWERS = "Answers"
"""Member of a node record: ids of the questions it answers."""

ANSWER_S = 3.0
"""How long an answer may take. A live daemon hears of the question by its watch, at once."""

SLOWNESS = 6
"""Where a write takes long, as many times that: the answer needs a write and two events."""

QUESTION_TTL_S = 20.0
"""After which a question is gone whose host has ended."""

MAX_ANSWERS = 16
"""Questions answered at once."""

LOOK_S = 0.05


def questions(records: Iterable[NodeRecord], lease: Lease) -> list[NodeRecord]:
    """Returns the questions for `lease`, sorted by id; the first of very many."""
    name = str(lease.key)
    found = [
        record
        for record in records
        if ASKS in record.extra and isinstance(asked := record.extra[ASKS], list) and name in asked
    ]
    return sorted(found, key=lambda record: record.node_id)[:MAX_ANSWERS]


def record_of(
    lease: Lease,
    *,
    node_id: str,
    version: str,
    machine: str | None,
    encryption: RecordEncryption | Unreadable | None = None,
    answers: Sequence[NodeRecord] = (),
) -> NodeRecord:
    """Returns the record of a node that holds `lease`."""
    extra: dict[str, object] = {} if machine is None else {MACHINE: machine}
    if answers:
        extra[ANSWERS] = [question.node_id for question in answers]
    return NodeRecord(
        node_id=node_id,
        key=lease.key,
        public_ip=lease.holder.public_ip,
        public_ipv6=lease.holder.public_ipv6,
        version=version,
        encryption=encryption,
        extra=extra,
    )


async def unanswered(
    store: Store,
    records: Callable[[], Iterable[NodeRecord]],
    leases: Sequence[Lease],
    *,
    question_id: str,
    asker: Holder,
    version: str,
) -> frozenset[SubnetKey]:
    """Returns for which of `leases` nobody answers.

    `question_id` is no node's id. `records` returns the records as they are known at the moment;
    the store is asked once more at the end.

    Raises:
        StoreError: the store does not answer, or refuses us.
    """
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    grant = await store.grant(QUESTION_TTL_S)
    question = NodeRecord(
        node_id=question_id,
        # Some subnet must be named; with the asker's address this is nobody's lease.
        key=leases[0].key,
        public_ip=asker.public_ip,
        public_ipv6=asker.public_ipv6,
        version=version,
        extra={ASKS: [str(lease.key) for lease in leases]},
    )
    await store.write_record(question, grant)
    asked_s = loop.time()
    end_s = asked_s + max(ANSWER_S, SLOWNESS * (asked_s - begin_s) / 2)
    silent = list(leases)
    while silent and loop.time() < end_s:
        await asyncio.sleep(LOOK_S)
        silent = _silent(silent, records(), question.node_id)
    if silent:
        silent = _silent(silent, (await store.read()).records, question.node_id)
    await store.drop_record(question.node_id)
    return frozenset(lease.key for lease in silent)


def _silent(leases: list[Lease], records: Iterable[NodeRecord], question: str) -> list[Lease]:
    answers = [
        record
        for record in records
        if isinstance(said := record.extra.get(ANSWERS), list) and question in said
    ]
    return [lease for lease in leases if not any(record.describes(lease) for record in answers)]
