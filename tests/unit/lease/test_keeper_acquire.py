"""Getting a lease, on real stores."""

from __future__ import annotations

import pytest

from tests.support.leases import key
from tests.support.stores import Server
from tests.unit.lease.entries import server_put
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ALICE, ME, NETWORK, of_size
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.model import Lease
from tunneld.lease.network import parse
from tunneld.lease.ownership import Held
from tunneld.lease.tracker import LeaseTracker


def test_new_lease_stands_in_the_store_as_flannel_writes_it(server: Server, prefix: str) -> None:
    async def main() -> Lease:
        async with Node(server.open(prefix), ME) as node:
            assert node.keeper.state == "none"
            found = await node.acquire(NETWORK, "10.5.74.0/24")
            assert (node.keeper.state, node.keeper.problem) == ("held", None)
            return found

    found = server.run(main())
    assert found.key == key("10.5.74.0/24")
    stored = server.everything(prefix)
    assert (
        stored[f"{prefix}/subnets/10.5.74.0-24"] == b'{"PublicIP":"192.0.2.11","PublicIPv6":null}'
    )
    assert set(stored) == {
        f"{prefix}/subnets/10.5.74.0-24",
        f"{prefix}/tunneld/nodes/node-192-0-2-11",
    }


def test_restarted_node_takes_its_lease_over_and_writes_it_anew(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
        async with Node(server.open(prefix), ME, seed=2) as node:
            return first, await node.acquire(NETWORK)

    first, second = server.run(main())
    assert second.key == first.key
    assert second.create_revision == first.create_revision
    assert second.mod_revision > first.mod_revision


def test_restarted_node_with_a_new_public_ip_keeps_its_subnet(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), ME, node_id="n1") as node:
            first = await node.acquire(NETWORK)
        async with Node(server.open(prefix), "192.0.2.77", node_id="n1", seed=2) as node:
            return first, await node.acquire(NETWORK)

    first, second = server.run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ip) == "192.0.2.77"


def test_public_ip_that_changes_meanwhile_is_written_in_place(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            second = await node.acquire(NETWORK, public_ip="192.0.2.77")
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            assert len(node.tracker.leases) == 1
            return first, second

    first, second = server.run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ip) == "192.0.2.77"


def test_acquiring_twice_before_the_table_has_followed_keeps_the_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), ME) as node:
            return await node.acquire(NETWORK), await node.acquire(NETWORK)

    first, second = server.run(main())
    assert second.key == first.key


def test_old_table_does_not_cost_the_subnet(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.open(prefix), ME) as node:
            before = await node.store.read()
            first = await node.acquire(NETWORK)
            node.tracker = LeaseTracker()
            node.tracker.reset(before)
            return first, await node.acquire(NETWORK, public_ip="192.0.2.77")

    first, second = server.run(main())
    assert second.key == first.key
    assert second.create_revision == first.create_revision


def test_network_that_was_full_in_an_old_table_is_asked_for_again(
    server: Server, prefix: str
) -> None:
    async def main() -> Lease:
        async with (
            Node(server.open(prefix), ALICE) as other,
            Node(server.open(prefix), ME) as node,
        ):
            await other.acquire(of_size(1))
            full = await node.store.read()
            await other.keeper.leave()
            node.tracker = LeaseTracker()
            node.tracker.reset(full)
            return await node.acquire(of_size(1))

    assert server.run(main()).key == key("10.5.1.0/24")


def test_flanneld_lease_with_the_same_public_ip_is_taken_over(server: Server, prefix: str) -> None:
    server_put(server, prefix, "10.5.9.0-24", ME)

    async def main() -> Lease:
        async with Node(server.open(prefix), ME) as node:
            return await node.acquire(NETWORK)

    assert server.run(main()).key == key("10.5.9.0/24")
    # The key had no grant: that made it a reservation, which must outlive this lease.
    assert f"{prefix}/tunneld/reservations/10.5.9.0-24" in server.everything(prefix)


def test_reserved_subnet_is_taken_though_no_lease_is_left(server: Server, prefix: str) -> None:
    server_put(server, prefix, "10.5.9.0-24", ME)

    async def main() -> Lease:
        async with Node(server.open(prefix), ME, node_id="n1") as node:
            await node.acquire(NETWORK)
            assert await node.keeper.leave()
        async with Node(server.open(prefix), ALICE) as node:
            await node.acquire(NETWORK, "10.5.9.0/24")
        async with Node(server.open(prefix), ME, node_id="n2") as node:
            return await node.acquire(NETWORK)

    assert server.run(main()).key == key("10.5.9.0/24")


def test_lease_that_does_not_fit_the_network_any_more_goes_in_the_same_write(
    server: Server, prefix: str
) -> None:
    async def main() -> Lease:
        async with Node(server.open(prefix), ME) as node:
            await node.acquire(NETWORK, "10.5.74.0/24")
        async with Node(server.open(prefix), ME) as node:
            return await node.acquire(parse('{"Network": "10.6.0.0/16"}'))

    found = server.run(main())
    assert str(found.key).startswith("10.6.")
    names = [name for name in server.everything(prefix) if "/subnets/" in name]
    assert names == [f"{prefix}/subnets/{str(found.key).replace('/', '-')}"]


def test_subnet_under_an_entry_that_cannot_be_read_is_not_insisted_on(
    server: Server, prefix: str
) -> None:
    server.put(f"{prefix}/subnets/10.5.1.0-24", b'{"PublicIP":null}')

    async def main() -> Lease:
        async with Node(server.open(prefix), ME) as node:
            return await node.acquire(of_size(2), "10.5.1.0/24")

    assert server.run(main()).key == key("10.5.2.0/24")
    assert server.everything(prefix)[f"{prefix}/subnets/10.5.1.0-24"] == b'{"PublicIP":null}'


def test_network_full_of_entries_that_cannot_be_read_is_exhausted(
    server: Server, prefix: str
) -> None:
    for number in (1, 2):
        server.put(f"{prefix}/subnets/10.5.{number}.0-24", b"garbage")

    async def main() -> None:
        async with Node(server.open(prefix), ME) as node:
            await node.acquire(of_size(2))

    with pytest.raises(SubnetExhaustedError):
        server.run(main())
