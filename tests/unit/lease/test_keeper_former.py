"""What became of a lease while its host was down, in virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.memory_store import MemoryServer
from tests.unit.lease.entries import lease_name
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.lease.model import Lease

LOST = "the lease was lost; this host has another subnet: restart what used the old one"


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns what the lines say that tell of a lost lease."""
    return [
        str(entry.__dict__["fields"]["detail"])
        for entry in caplog.records
        if entry.getMessage() == LOST and entry.levelno == logging.ERROR
    ]


@pytest.mark.parametrize("source", ["memory", "record", "subnet_env"])
def test_subnet_another_host_has_leased_meanwhile_is_left_to_it_and_named(
    memory: MemoryServer, prefix: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
        theirs = f'{{"PublicIP":"{ALICE}","PublicIPv6":null}}'.encode()
        memory.put(lease_name(prefix, first), theirs)
        node_id = None if source == "record" else "new"
        async with Node(memory.open(prefix), ME, node_id=node_id, seed=2) as node:
            if source == "memory":
                node.keeper.recall(first)
            previous = str(first.key) if source == "subnet_env" else None
            second = await node.acquire(NETWORK, previous)
            assert memory.everything(prefix)[lease_name(prefix, first)] == theirs
            return first, second

    first, second = memory.run(main())
    assert second.key != first.key
    assert lost(caplog) == [f"former subnet {first.key}, which {ALICE} has leased"]


@pytest.mark.parametrize("value", [b"", b"null", b"\xff"])
@pytest.mark.parametrize("is_remembered", [True, False])
def test_lease_written_over_by_what_nobody_can_read_is_taken_back_where_it_is_known(
    memory: MemoryServer,
    prefix: str,
    value: bytes,
    is_remembered: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
        memory.put(lease_name(prefix, first), value)
        async with Node(memory.open(prefix), ME, seed=2) as node:
            if is_remembered:
                node.keeper.recall(first)
            return first, await node.acquire(NETWORK)

    first, second = memory.run(main())
    assert (second.key == first.key) is is_remembered
    told = f"former subnet {first.key}, where an entry stands that cannot be read"
    assert lost(caplog) == ([] if is_remembered else [told])


def test_what_came_after_the_lease_had_ended_is_left_there_though_it_cannot_be_read(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
        memory.delete(lease_name(prefix, first))
        memory.put(lease_name(prefix, first), b"of a later version")
        async with Node(memory.open(prefix), ME, seed=2) as node:
            node.keeper.recall(first)
            return first, await node.acquire(NETWORK)

    first, second = memory.run(main())
    assert second.key != first.key


@pytest.mark.parametrize("is_taken", [False, True])
def test_host_that_was_off_for_longer_than_its_lease_competes_with_nobody(
    memory: MemoryServer, prefix: str, is_taken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME, ttl_s=60.0) as node:
            first = await node.acquire(NETWORK)
        await asyncio.sleep(61.0)
        async with (
            Node(memory.open(prefix), ALICE) as other,
            Node(memory.open(prefix), ME, seed=2) as node,
        ):
            if is_taken:
                theirs = await other.acquire(NETWORK, str(first.key))
                assert theirs.key == first.key
                await node.sees(theirs)
            node.keeper.recall(first)
            second = await node.acquire(NETWORK)
            if is_taken:
                assert theirs in (await node.store.read()).leases
            return first, second

    first, second = memory.run(main())
    # Without a subnet.env, as after a boot, memory alone knows the subnet.
    assert (second.key == first.key) is not is_taken
    taken = f"former subnet {first.key}, which {ALICE} has leased"
    assert lost(caplog) == ([taken] if is_taken else [])


def test_the_record_in_the_store_is_newer_than_what_a_full_disk_remembers(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> Lease:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.keeper.leave()
        async with Node(memory.open(prefix), ME) as node:
            second = await node.acquire(NETWORK, "10.5.99.0/24")
        memory.put(lease_name(prefix, second), f'{{"PublicIP":"{ALICE}"}}'.encode())
        async with Node(memory.open(prefix), ME, seed=2) as node:
            node.keeper.recall(first)
            await node.acquire(NETWORK)
            return second

    second = memory.run(main())
    assert lost(caplog) == [f"former subnet {second.key}, which {ALICE} has leased"]


def test_lease_held_already_is_no_news_though_an_older_one_is_remembered(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.keeper.leave()
        async with Node(memory.open(prefix), ME) as node:
            second = await node.acquire(NETWORK, "10.5.99.0/24")
        # Somebody has deleted the record, and the disk was full meanwhile.
        memory.delete(f"{prefix}/tunneld/nodes/node-192-0-2-11")
        async with Node(memory.open(prefix), ME, seed=2) as node:
            node.keeper.recall(first)
            return second, await node.acquire(NETWORK)

    second, third = memory.run(main())
    assert third.key == second.key
    assert lost(caplog) == []
