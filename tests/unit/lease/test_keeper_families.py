"""Leases of networks that get and lose an address family, or have IPv6 alone, on real stores."""

from __future__ import annotations

import asyncio

from tests.support.stores import Server
from tests.unit.lease.entries import held_keys
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import DUAL, ME, NETWORK, ONLY6
from tunneld.lease.model import Lease


def test_network_that_gets_ipv6_and_loses_it_again_leaves_every_host_its_ipv4_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> list[Lease]:
        found = []
        for config, public_ips in ((NETWORK, ME), (DUAL, f"{ME},fd99::11"), (NETWORK, ME)):
            async with Node(server.open(prefix), public_ips, node_id="n1") as node:
                found.append(await node.acquire(config))
                # The key that does not fit goes in the same write.
                assert len(held_keys(server, prefix)) == 1
        return found

    single, dual, again = server.run(main())
    assert dual.key.ipv4 == single.key.ipv4
    assert dual.key.ipv6 is not None
    assert again.key == single.key
    assert held_keys(server, prefix) == {str(single.key).replace("/", "-")}


def test_hosts_without_ipv4_never_take_each_others_leases(server: Server, prefix: str) -> None:
    async def main() -> tuple[list[Lease], list[Lease]]:
        hosts = [f"fd99::{number}" for number in range(1, 5)]

        async def start(host: str, seed: int) -> Lease:
            async with Node(server.open(prefix), host, seed=seed) as node:
                return await node.acquire(ONLY6)

        first = list(await asyncio.gather(*(start(host, 1) for host in hosts)))
        again = [await start(host, 2) for host in reversed(hosts)]
        return first, again[::-1]

    first, again = server.run(main())
    assert [entry.key for entry in again] == [entry.key for entry in first]
    assert len({entry.key for entry in first}) == 4
    assert len(held_keys(server, prefix)) == 4
    assert all(name.startswith("0.0.0.0-0&fd00:10:5:") for name in held_keys(server, prefix))


def test_host_without_ipv4_whose_address_changed_keeps_its_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), "fd99::11", node_id="n1") as node:
            first = await node.acquire(ONLY6)
        async with Node(server.open(prefix), "fd99::77", node_id="n1", seed=2) as node:
            return first, await node.acquire(ONLY6)

    first, second = server.run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ipv6) == "fd99::77"
