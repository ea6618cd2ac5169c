"""Losing a lease, and leaving it, on real stores."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.stores import EtcdServer, Server, run, until
from tests.unit.lease.entries import lease_name, server_put
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK
from tunneld.errors import GrantLostError
from tunneld.lease.model import Lease
from tunneld.lease.ownership import Deleted, Held, Overwritten


def test_deleted_lease_comes_back_in_place(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            await asyncio.to_thread(server.delete, lease_name(prefix, first))
            assert await node.verdict() == Deleted()
            states = [node.keeper.state]
            second = await node.acquire(NETWORK)
            assert [*states, node.keeper.state] == ["lost", "held"]
            return first, second

    first, second = run(main())
    assert second.key == first.key


def test_subnet_overwritten_by_another_host_is_left_to_it(
    server: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = str(first.key).replace("/", "-")
            await asyncio.to_thread(server_put, server, prefix, name, ALICE)
            found = await node.verdict()
            assert isinstance(found, Overwritten)
            assert str(found.by.attributes.public_ip) == ALICE
            return first, await node.acquire(NETWORK)

    first, second = run(main())
    assert second.key != first.key
    assert ALICE.encode() in server.everything(prefix)[lease_name(prefix, first)]
    assert [entry for entry in caplog.records if entry.levelno == logging.ERROR]


@pytest.mark.parametrize("value", [b"null", b'{"PublicIP":'])
def test_lease_written_over_by_what_nobody_can_read_is_written_again_in_its_place(
    server: Server, prefix: str, value: bytes
) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = lease_name(prefix, first)
            for _ in range(2):
                await asyncio.to_thread(server.put, name, value)
                assert isinstance(await node.verdict(), Deleted)
                back = await node.acquire(NETWORK)
                assert (back.key, back.attributes) == (first.key, first.attributes)
                await node.sees(back)
            found = await node.store.read()
            assert [lease.key for lease in found.leases] == [first.key]
            assert found.malformed == ()

    run(main())


def test_what_came_after_the_lease_had_ended_is_left_there_though_it_cannot_be_read(
    server: Server, prefix: str
) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = lease_name(prefix, first)
            await asyncio.to_thread(server.delete, name)
            await asyncio.to_thread(server.put, name, b"of a later version")
            await until(lambda: bool(node.tracker.view.malformed))
            second = await node.acquire(NETWORK)
            assert second.key != first.key
            assert server.everything(prefix)[name] == b"of a later version"

    run(main())


def test_lease_rewritten_with_our_own_address_is_taken_back_in_place(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            name = str(first.key).replace("/", "-")
            await asyncio.to_thread(server_put, server, prefix, name, ME)
            assert isinstance(await node.verdict(), Overwritten)
            second = await node.acquire(NETWORK)
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            return first, second

    first, second = run(main())
    assert second.key == first.key
    assert second.grant_id == first.grant_id


def test_lease_that_has_ended_is_lost_and_comes_back_in_place(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME, ttl_s=1.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            assert await node.verdict() == Deleted()
            with pytest.raises(GrantLostError):
                await node.keeper.keep()
            assert (node.keeper.state, node.keeper.expires_at_s) == ("lost", None)
            return first, await node.acquire(NETWORK)

    first, second = run(main())
    assert second.key == first.key
    assert second.grant_id != first.grant_id


def test_lease_given_up_is_gone(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME) as node:
            await node.acquire(NETWORK)
            assert await node.keeper.leave()
            assert node.keeper.lease is None
            assert await node.keeper.leave()

    run(main())
    assert server.everything(prefix) == {}


def test_leaving_does_not_touch_the_lease_of_who_took_the_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> Lease:
        async with Node(server.options(prefix), ME) as node:
            found = await node.acquire(NETWORK)
            name = str(found.key).replace("/", "-")
            await asyncio.to_thread(server_put, server, prefix, name, ALICE)
            assert not await node.keeper.leave()
            return found

    found = run(main())
    assert ALICE.encode() in server.everything(prefix)[lease_name(prefix, found)]


def test_etcd_that_lost_its_data_gets_the_lease_back(etcd: EtcdServer, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(etcd.options(prefix), ME) as node:
            for _ in range(5):
                await node.store.write_config("{}")
            first = await node.acquire(NETWORK)
            await node.sees(first)
            await asyncio.to_thread(etcd.kill)
            etcd.wipe()
            await asyncio.to_thread(etcd.start)
            assert await node.verdict() == Deleted()
            second = await node.acquire(NETWORK)
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            return first, second

    first, second = run(main())
    assert second.key == first.key
    assert second.mod_revision < first.mod_revision
