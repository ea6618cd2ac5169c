"""Hosts whose state directory was lost or copied, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from tests.support.leases import record, table
from tests.support.memory_store import MemoryServer
from tests.support.stores import until
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.lease import roll_call
from tunneld.lease.model import ASKS, Lease, NodeRecord, Snapshot

SAME, OTHER = "a" * 32, "b" * 32


def held(view: Snapshot) -> list[Lease]:
    return sorted(view.leases, key=lambda lease: lease.key)


async def nothing(_node_id: str) -> None:
    """What a host does that was killed."""


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


@pytest.mark.parametrize("machine", [SAME, None])
def test_copy_takes_no_lease_of_a_live_host_and_both_say_so(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture, machine: str | None
) -> None:
    async def main() -> None:
        async with (
            Node(memory.open(prefix), ME, node_id="copied", machine=machine) as one,
            Node(memory.open(prefix), ALICE, node_id="copied", machine=machine) as two,
        ):
            first = await one.acquire(NETWORK)
            await one.sees(first)
            await two.sees(first)
            # What the copied directory remembers is the other host's, too.
            two.keeper.recall(first)
            second = await two.acquire(NETWORK, str(first.key))
            assert second.key != first.key
            found = await two.store.read()
            assert held(found) == held(table(first, second))
            nodes = {entry.node_id: entry.key for entry in found.records if not entry.is_question}
            assert nodes == {"copied": first.key, two.keeper.node_id: second.key}
            assert (one.renamed, two.renamed) == ([], [True])

    memory.run(main())
    said = messages(caplog)
    assert any(line.startswith("the state directory is a copy of another host's") for line in said)
    assert any(line.startswith("another host asked for the lease of this one") for line in said)
    assert not any("the lease was lost" in line for line in said)


def test_copy_on_another_machine_asks_nobody(memory: MemoryServer, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME, node_id="copied", machine=OTHER) as one:
            first = await one.acquire(NETWORK)
        # Its daemon is down for a moment: that does not make its subnet the copy's.
        async with Node(memory.open(prefix), ALICE, node_id="copied", machine=SAME) as two:
            second = await two.acquire(NETWORK)
            assert held(await two.store.read()) == held(table(first, second))
            return first, second

    first, second = memory.run(main())
    assert first.key != second.key


def test_hosts_of_one_image_become_nodes_of_their_own_and_keep_their_subnets(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with (
            Node(memory.open(prefix), ME, node_id="image", machine=SAME) as one,
            Node(memory.open(prefix), ALICE, node_id="image", machine=SAME, seed=2) as two,
        ):
            # Neither has written anything when the other looks.
            first, second = await asyncio.gather(one.acquire(NETWORK), two.acquire(NETWORK))
            assert first.key != second.key

            def described(records: tuple[NodeRecord, ...], lease: Lease, node_id: str) -> bool:
                return any(r.node_id == node_id and r.describes(lease) for r in records)

            def is_settled() -> bool:
                records = tuple(one.tracker.records)
                return (
                    one.keeper.node_id != two.keeper.node_id
                    and described(records, first, one.keeper.node_id)
                    and described(records, second, two.keeper.node_id)
                )

            await until(is_settled)
            assert held(await one.store.read()) == held(table(first, second))
            assert True not in one.renamed + two.renamed

    memory.run(main())
    assert any("runs with a copy of this host's state directory" in one for one in messages(caplog))


def test_host_that_lost_its_state_directory_keeps_its_one_lease(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, node_id="former", machine=SAME) as one:
            first = await one.acquire(NETWORK)
        for start, machine in enumerate((SAME, OTHER, None)):
            async with Node(
                memory.open(prefix), ME, node_id=f"start-{start}", machine=machine, seed=start
            ) as again:
                found = await again.acquire(NETWORK)
                assert found.key == first.key
                assert (await again.store.read()).leases == (found,)

    memory.run(main())


def test_host_that_lost_its_state_directory_and_its_address_is_known_by_machine_and_subnet_env(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, node_id="former", machine=SAME) as one:
            first = await one.acquire(NETWORK)
        async with Node(memory.open(prefix), ALICE, node_id="new", machine=SAME) as again:
            found = await again.acquire(NETWORK, str(first.key))
            assert found.key == first.key
            assert (await again.store.read()).leases == (found,)

    memory.run(main())


def test_two_live_hosts_with_one_address_have_a_lease_each(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with (
            Node(memory.open(prefix), ME, node_id="one", machine=SAME) as one,
            Node(memory.open(prefix), ME, node_id="two", machine=OTHER, seed=2) as two,
        ):
            first = await one.acquire(NETWORK)
            await one.sees(first)
            await two.sees(first)
            second = await two.acquire(NETWORK)
            assert held(await two.store.read()) == held(table(first, second))

    memory.run(main())
    assert any("give each host an address of its own" in line for line in messages(caplog))


@pytest.mark.parametrize("is_killed", [False, True])
def test_question_is_gone_when_it_was_answered_or_its_asker_has_ended(
    memory: MemoryServer, prefix: str, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    if not is_killed:
        monkeypatch.setattr(roll_call, "QUESTION_TTL_S", 600.0)

    async def main() -> None:
        async with Node(memory.open(prefix), ME, node_id="former", machine=SAME) as one:
            await one.acquire(NETWORK)
        async with Node(memory.open(prefix), ME, node_id="new", machine=SAME) as again:
            if is_killed:
                monkeypatch.setattr(again.store, "drop_record", nothing)
            last = await again.acquire(NETWORK)
            if is_killed:
                assert any(one.is_question for one in (await again.store.read()).records)
            await again.sees(last)
            await until(lambda: not any(one.is_question for one in again.tracker.records), 60.0)
            assert {one.node_id for one in again.tracker.records} == {"former", "new"}

    memory.run(main())


def test_remembered_lease_of_a_moved_host_is_asked_for_like_any_other(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME, node_id="copied", machine=SAME) as one:
            first = await one.acquire(NETWORK)
            await one.sees(first)
            two = Node(memory.open(prefix), ALICE, node_id="copied", machine=SAME)
            two.tracker.reset(one.tracker.view)
            # As at a start without the store, from the memory that was copied too.
            two.keeper.adopt(first, 30.0, two.tracker)
            await two.keeper.answer(two.tracker)
            second = await two.acquire(NETWORK)
            assert second.key != first.key
            assert held(await one.store.read()) == held(table(first, second))
            await two.store.close()

    memory.run(main())


def test_remembered_lease_answers_no_question_before_the_store_was_heard(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME) as one:
            first = await one.acquire(NETWORK)
            await one.sees(first)
        question = replace(record("a" * 32, str(first.key), ALICE), extra={ASKS: [str(first.key)]})
        again = Node(memory.open(prefix), ME)
        again.tracker.reset(table(first, question, revision=memory.revision))
        again.keeper.adopt(first, 30.0, again.tracker)
        revision = memory.revision
        await again.keeper.answer(again.tracker)
        assert memory.revision == revision

    memory.run(main())
