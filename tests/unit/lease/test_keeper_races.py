"""Nodes that want a subnet at the same moment, on real stores."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.stores import Server, SqliteServer
from tests.unit.lease.entries import held_keys
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, DUAL, ME, of_size
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.model import Lease
from tunneld.lease.tracker import LeaseTracker


def test_racing_nodes_with_the_same_luck_all_get_subnets_of_their_own(
    server: Server, prefix: str
) -> None:
    async def main() -> list[Lease]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.open(prefix), f"192.0.2.{number}"))
                for number in range(1, 6)
            ]
            return await asyncio.gather(*(node.acquire(of_size(5)) for node in nodes))

    leases = server.run(main())
    assert sorted(str(entry.key) for entry in leases) == [
        f"10.5.{number}.0/24" for number in range(1, 6)
    ]


def test_racing_nodes_share_out_a_network_that_is_too_small(server: Server, prefix: str) -> None:
    async def main() -> list[Lease | BaseException]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.open(prefix), f"192.0.2.{number}"))
                for number in range(1, 6)
            ]
            return await asyncio.gather(
                *(node.acquire(of_size(3)) for node in nodes), return_exceptions=True
            )

    results = server.run(main())
    leases = [found for found in results if isinstance(found, Lease)]
    assert len({found.key for found in leases}) == 3
    assert sum(isinstance(found, SubnetExhaustedError) for found in results) == 2


def test_many_racing_nodes_on_one_file_all_get_subnets_of_their_own(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    server = SqliteServer(tmp_path_factory.mktemp("race") / "store.db")

    async def main() -> list[Lease]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.open(prefix), f"192.0.2.{number}"))
                for number in range(1, 13)
            ]
            return await asyncio.gather(*(node.acquire(of_size(12)) for node in nodes))

    assert len({entry.key for entry in server.run(main())}) == 12


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("10.5.7.0/24,fd00:10:5:8::/64", "fd00:10:5:8::/64"),
        ("10.5.8.0/24,fd00:10:5:7::/64", "10.5.8.0/24"),
    ],
)
def test_two_keys_that_share_one_subnet_do_not_stand_beside_each_other(
    server: Server, prefix: str, wanted: str, kept: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with (
            Node(server.open(prefix), f"{ALICE},fd99::12") as early,
            Node(server.open(prefix), f"{ME},fd99::11") as late,
        ):
            empty = await late.store.read()
            first = await early.acquire(DUAL, "10.5.7.0/24,fd00:10:5:7::/64")
            late.tracker = LeaseTracker()
            late.tracker.reset(empty)
            return first, await late.acquire(DUAL, wanted)

    first, second = server.run(main())
    assert str(first.key) == "10.5.7.0/24,fd00:10:5:7::/64"
    assert kept in str(second.key).split(",")
    assert DUAL.admits(second.key)
    assert not set(first.key.subnets) & set(second.key.subnets)
    assert held_keys(server, prefix) == {
        "10.5.7.0-24&fd00:10:5:7::-64",
        "&".join(str(subnet).replace("/", "-") for subnet in second.key.subnets),
    }


def test_racing_hosts_with_the_same_luck_share_no_subnet_of_either_family(
    server: Server, prefix: str
) -> None:
    async def main() -> list[Lease]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(
                    Node(server.open(prefix), f"192.0.2.{number},fd99::{number}")
                )
                for number in range(1, 6)
            ]
            return await asyncio.gather(*(node.acquire(DUAL) for node in nodes))

    subnets = [subnet for entry in server.run(main()) for subnet in entry.key.subnets]
    assert len(set(subnets)) == 10
