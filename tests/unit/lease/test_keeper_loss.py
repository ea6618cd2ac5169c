"""Losing a lease, and leaving it, in virtual time."""

from __future__ import annotations

import logging

import pytest

from tests.support.memory_store import MemoryServer
from tests.support.stores import until
from tests.unit.lease.entries import lease_name, server_put
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.errors import GrantLostError
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held, Overwritten


def test_deleted_lease_comes_back_in_place(memory: MemoryServer, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            memory.delete(lease_name(prefix, first))
            assert await node.verdict() == Deleted()
            states = [node.keeper.state]
            second = await node.acquire(NETWORK)
            assert [*states, node.keeper.state] == ["lost", "held"]
            return first, second

    first, second = memory.run(main())
    assert second.key == first.key


def test_subnet_overwritten_by_another_host_is_left_to_it(
    memory: MemoryServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = str(first.key).replace("/", "-")
            server_put(memory, prefix, name, ALICE)
            found = await node.verdict()
            assert isinstance(found, Overwritten)
            assert str(found.by.attributes.public_ip) == ALICE
            return first, await node.acquire(NETWORK)

    first, second = memory.run(main())
    assert second.key != first.key
    assert ALICE.encode() in memory.everything(prefix)[lease_name(prefix, first)]
    assert [entry for entry in caplog.records if entry.levelno == logging.ERROR]


@pytest.mark.parametrize("value", [b"null", b'{"PublicIP":'])
def test_lease_written_over_by_what_nobody_can_read_is_written_again_in_its_place(
    memory: MemoryServer, prefix: str, value: bytes
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = lease_name(prefix, first)
            for _ in range(2):
                memory.put(name, value)
                assert isinstance(await node.verdict(), Deleted)
                back = await node.acquire(NETWORK)
                assert (back.key, back.attributes) == (first.key, first.attributes)
                await node.sees(back)
            found = await node.store.read()
            assert [lease.key for lease in found.leases] == [first.key]
            assert found.malformed == ()

    memory.run(main())


def test_what_came_after_the_lease_had_ended_is_left_there_though_it_cannot_be_read(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = lease_name(prefix, first)
            memory.delete(name)
            memory.put(name, b"of a later version")
            await until(lambda: bool(node.tracker.view.malformed))
            second = await node.acquire(NETWORK)
            assert second.key != first.key
            assert memory.everything(prefix)[name] == b"of a later version"

    memory.run(main())


def test_lease_rewritten_with_our_own_address_is_taken_back_in_place(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = str(first.key).replace("/", "-")
            server_put(memory, prefix, name, ME)
            assert isinstance(await node.verdict(), Overwritten)
            second = await node.acquire(NETWORK)
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            return first, second

    first, second = memory.run(main())
    assert second.key == first.key
    assert second.grant_id == first.grant_id


def test_lease_that_has_ended_is_lost_and_comes_back_in_place(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(memory.open(prefix), ME, ttl_s=1.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            assert await node.verdict() == Deleted()
            with pytest.raises(GrantLostError):
                await node.keeper.keep()
            assert (node.keeper.state, node.keeper.left_s) == ("lost", None)
            return first, await node.acquire(NETWORK)

    first, second = memory.run(main())
    assert second.key == first.key
    assert second.grant_id != first.grant_id


def test_lease_given_up_is_gone(memory: MemoryServer, prefix: str) -> None:
    async def main() -> None:
        async with Node(memory.open(prefix), ME) as node:
            await node.acquire(NETWORK)
            assert await node.keeper.leave()
            assert node.keeper.lease is None
            assert await node.keeper.leave()

    memory.run(main())
    assert memory.everything(prefix) == {}


def test_leaving_does_not_touch_the_lease_of_who_took_the_subnet(
    memory: MemoryServer, prefix: str
) -> None:
    async def main() -> Lease:
        async with Node(memory.open(prefix), ME) as node:
            found = await node.acquire(NETWORK)
            name = str(found.key).replace("/", "-")
            server_put(memory, prefix, name, ALICE)
            assert not await node.keeper.leave()
            return found

    found = memory.run(main())
    assert ALICE.encode() in memory.everything(prefix)[lease_name(prefix, found)]
