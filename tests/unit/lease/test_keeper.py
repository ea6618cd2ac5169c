"""Getting, keeping and losing a lease, on real stores."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack

import pytest

from tests.support.leases import key
from tests.support.stores import EtcdServer, Server, SqliteServer, run, until
from tests.unit.lease.nodes import Node
from tunneld.errors import GrantLostError, LeaseError, SubnetExhaustedError
from tunneld.lease.keeper import renewal_interval_s
from tunneld.lease.model import Lease
from tunneld.lease.network import NetworkConfig, parse
from tunneld.lease.ownership import Deleted, Held, Overwritten
from tunneld.lease.tracker import LeaseTracker

NETWORK = parse('{"Network": "10.5.0.0/16"}')
ME = "192.0.2.11"
ALICE = "192.0.2.12"


def of_size(count: int) -> NetworkConfig:
    return parse(
        json.dumps(
            {"Network": "10.5.0.0/16", "SubnetMin": "10.5.1.0", "SubnetMax": f"10.5.{count}.0"}
        )
    )


@pytest.mark.parametrize(
    ("ttl_s", "margin_s", "interval_s"),
    [
        (86_400.0, 3_600.0, 28_800.0),
        (86_400.0, 82_800.0, 3_600.0),
        (30.0, 3_600.0, 10.0),
        (30.0, 30.0, 10.0),
        (30.0, 29.99, 0.1),
        (30.0, 0.0, 10.0),
    ],
)
def test_lease_is_renewed_at_a_third_of_its_time_or_before_the_margin(
    ttl_s: float, margin_s: float, interval_s: float
) -> None:
    assert renewal_interval_s(ttl_s, margin_s) == pytest.approx(interval_s)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0])
def test_time_to_live_must_be_positive(ttl_s: float) -> None:
    with pytest.raises(LeaseError, match="expected more than 0"):
        renewal_interval_s(ttl_s, 0.0)


def test_new_lease_stands_in_the_store_as_flannel_writes_it(server: Server, prefix: str) -> None:
    async def main() -> Lease:
        async with Node(server.options(prefix), ME) as node:
            assert node.keeper.state == "none"
            found = await node.acquire(NETWORK, "10.5.74.0/24")
            assert (node.keeper.state, node.keeper.problem) == ("held", None)
            return found

    found = run(main())
    assert found.key == key("10.5.74.0/24")
    stored = server.everything(prefix)
    assert (
        stored[f"{prefix}/subnets/10.5.74.0-24"] == b'{"PublicIP":"192.0.2.11","PublicIPv6":null}'
    )
    assert set(stored) == {
        f"{prefix}/subnets/10.5.74.0-24",
        f"{prefix}/tunneld/nodes/node-192-0-2-11",
    }


def test_racing_nodes_with_the_same_luck_all_get_subnets_of_their_own(
    server: Server, prefix: str
) -> None:
    async def main() -> list[Lease]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.options(prefix), f"192.0.2.{number}"))
                for number in range(1, 6)
            ]
            return await asyncio.gather(*(node.acquire(of_size(5)) for node in nodes))

    leases = run(main())
    assert sorted(str(entry.key) for entry in leases) == [
        f"10.5.{number}.0/24" for number in range(1, 6)
    ]


def test_racing_nodes_share_out_a_network_that_is_too_small(server: Server, prefix: str) -> None:
    async def main() -> list[Lease | BaseException]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.options(prefix), f"192.0.2.{number}"))
                for number in range(1, 6)
            ]
            return await asyncio.gather(
                *(node.acquire(of_size(3)) for node in nodes), return_exceptions=True
            )

    results = run(main())
    leases = [found for found in results if isinstance(found, Lease)]
    assert len({found.key for found in leases}) == 3
    assert sum(isinstance(found, SubnetExhaustedError) for found in results) == 2


def test_restarted_node_takes_its_lease_over_and_writes_it_anew(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
        async with Node(server.options(prefix), ME, seed=2) as node:
            return first, await node.acquire(NETWORK)

    first, second = run(main())
    assert second.key == first.key
    assert second.create_revision == first.create_revision
    assert second.mod_revision > first.mod_revision


def test_restarted_node_with_a_new_public_ip_keeps_its_subnet(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME, node_id="n1") as node:
            first = await node.acquire(NETWORK)
        async with Node(server.options(prefix), "192.0.2.77", node_id="n1", seed=2) as node:
            return first, await node.acquire(NETWORK)

    first, second = run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ip) == "192.0.2.77"


def test_public_ip_that_changes_meanwhile_is_written_in_place(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            second = await node.acquire(NETWORK, public_ip="192.0.2.77")
            await node.sees(second)
            assert isinstance(node.keeper.observe(node.tracker), Held)
            assert len(node.tracker.leases) == 1
            return first, second

    first, second = run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ip) == "192.0.2.77"


def test_acquiring_twice_before_the_table_has_followed_keeps_the_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            return await node.acquire(NETWORK), await node.acquire(NETWORK)

    first, second = run(main())
    assert second.key == first.key


def test_old_table_does_not_cost_the_subnet(server: Server, prefix: str) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            before = await node.store.read()
            first = await node.acquire(NETWORK)
            node.tracker = LeaseTracker()
            node.tracker.reset(before)
            return first, await node.acquire(NETWORK, public_ip="192.0.2.77")

    first, second = run(main())
    assert second.key == first.key
    assert second.create_revision == first.create_revision


def test_network_that_was_full_in_an_old_table_is_asked_for_again(
    server: Server, prefix: str
) -> None:
    async def main() -> Lease:
        async with (
            Node(server.options(prefix), ALICE) as other,
            Node(server.options(prefix), ME) as node,
        ):
            await other.acquire(of_size(1))
            full = await node.store.read()
            await other.keeper.leave()
            node.tracker = LeaseTracker()
            node.tracker.reset(full)
            return await node.acquire(of_size(1))

    assert run(main()).key == key("10.5.1.0/24")


def test_flanneld_lease_with_the_same_public_ip_is_taken_over(server: Server, prefix: str) -> None:
    server_put(server, prefix, "10.5.9.0-24", ME)

    async def main() -> Lease:
        async with Node(server.options(prefix), ME) as node:
            return await node.acquire(NETWORK)

    assert run(main()).key == key("10.5.9.0/24")
    # The key had no grant: that made it a reservation, which must outlive this lease.
    assert f"{prefix}/tunneld/reservations/10.5.9.0-24" in server.everything(prefix)


def test_reserved_subnet_is_taken_though_no_lease_is_left(server: Server, prefix: str) -> None:
    server_put(server, prefix, "10.5.9.0-24", ME)

    async def main() -> Lease:
        async with Node(server.options(prefix), ME, node_id="n1") as node:
            await node.acquire(NETWORK)
            assert await node.keeper.leave()
        async with Node(server.options(prefix), ALICE) as node:
            await node.acquire(NETWORK, "10.5.9.0/24")
        async with Node(server.options(prefix), ME, node_id="n2") as node:
            return await node.acquire(NETWORK)

    assert run(main()).key == key("10.5.9.0/24")


def test_lease_that_does_not_fit_the_network_any_more_goes_in_the_same_write(
    server: Server, prefix: str
) -> None:
    async def main() -> Lease:
        async with Node(server.options(prefix), ME) as node:
            await node.acquire(NETWORK, "10.5.74.0/24")
        async with Node(server.options(prefix), ME) as node:
            return await node.acquire(parse('{"Network": "10.6.0.0/16"}'))

    found = run(main())
    assert str(found.key).startswith("10.6.")
    names = [name for name in server.everything(prefix) if "/subnets/" in name]
    assert names == [f"{prefix}/subnets/{str(found.key).replace('/', '-')}"]


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


def test_two_hosts_with_one_node_id_do_not_fight_for_ever(
    server: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with (
            Node(server.options(prefix), ME, node_id="copy") as one,
            Node(server.options(prefix), ALICE, node_id="copy") as two,
        ):
            first = await one.acquire(NETWORK)
            await two.sees(first)
            stolen = await two.acquire(NETWORK)
            assert stolen.key == first.key
            assert isinstance(await one.verdict(), Overwritten)
            second = await one.acquire(NETWORK)
            await two.sees(second)
            assert isinstance(two.keeper.observe(two.tracker), Held)
            return stolen, second

    stolen, second = run(main())
    assert stolen.key != second.key
    assert any("node id" in entry.getMessage() for entry in caplog.records)


def test_subnet_under_an_entry_that_cannot_be_read_is_not_insisted_on(
    server: Server, prefix: str
) -> None:
    server.put(f"{prefix}/subnets/10.5.1.0-24", b'{"PublicIP":null}')

    async def main() -> Lease:
        async with Node(server.options(prefix), ME) as node:
            return await node.acquire(of_size(2), "10.5.1.0/24")

    assert run(main()).key == key("10.5.2.0/24")
    assert server.everything(prefix)[f"{prefix}/subnets/10.5.1.0-24"] == b'{"PublicIP":null}'


def test_network_full_of_entries_that_cannot_be_read_is_exhausted(
    server: Server, prefix: str
) -> None:
    for number in (1, 2):
        server.put(f"{prefix}/subnets/10.5.{number}.0-24", b"garbage")

    async def main() -> None:
        async with Node(server.options(prefix), ME) as node:
            await node.acquire(of_size(2))

    with pytest.raises(SubnetExhaustedError):
        run(main())


def test_kept_lease_outlives_its_time_and_peers_see_no_write(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME, ttl_s=3.0) as node:
            first = await node.acquire(NETWORK)
            begin_s = node.keeper.expires_at_s
            assert begin_s is not None
            keeping = asyncio.create_task(node.keeper.keep())
            await until(lambda: (node.keeper.expires_at_s or 0.0) > begin_s + 3.5)
            keeping.cancel()
            assert (await node.store.read()).leases == (first,)
            assert node.keeper.state == "held"

    run(main())


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


def test_remembered_lease_is_held_until_a_listing_says_otherwise(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), ME) as node:
            first = await node.acquire(NETWORK)
            remembered = await node.store.read()
            again = Node(server.options(prefix), ME, seed=2)
            again.tracker.reset(remembered)
            again.keeper.adopt(first, 30.0, again.tracker)
            assert (again.keeper.state, again.keeper.lease) == ("held", first)
            left_s = (again.keeper.expires_at_s or 0.0) - asyncio.get_running_loop().time()
            assert 25.0 < left_s <= 30.0
            assert again.keeper.observe(again.tracker) == Held()
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Held()
            await asyncio.to_thread(server.delete, lease_name(prefix, first))
            again.tracker.reset(await node.store.read())
            assert again.keeper.observe(again.tracker) == Deleted()
            second = await again.acquire(NETWORK)
            await again.store.close()
            return first, second

    first, second = run(main())
    assert second.key == first.key


def test_remembered_lease_is_renewed_before_its_end(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with Node(server.options(prefix), ME, ttl_s=3.0) as node:
            first = await node.acquire(NETWORK)
            await node.sees(first)
            again = Node(server.options(prefix), ME, ttl_s=3.0)
            again.tracker.reset(node.tracker.view)
            again.keeper.adopt(first, 2.0, again.tracker)
            begin_s = again.keeper.expires_at_s or 0.0
            keeping = asyncio.create_task(again.keeper.keep())
            await until(lambda: (again.keeper.expires_at_s or 0.0) > begin_s)
            keeping.cancel()
            await again.store.close()

    run(main())


def test_host_cut_off_past_the_end_of_its_lease_goes_on_degraded(
    etcd: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        async with Node(etcd.options(prefix), ME, ttl_s=2.0) as node:
            first = await node.acquire(NETWORK)
            keeping = asyncio.create_task(node.keeper.keep())
            await asyncio.to_thread(etcd.kill)
            await until(lambda: node.keeper.state == "degraded", 20.0)
            await until(lambda: "could not be renewed" in (node.keeper.problem or ""), 20.0)
            assert not keeping.done()
            await asyncio.to_thread(etcd.start)
            # A restarted etcd gives each of its leases the full time again.
            await until(lambda: node.keeper.state == "held", 30.0)
            assert node.keeper.problem is None
            assert (await node.store.read()).leases == (first,)
            keeping.cancel()

    run(main())


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


def test_many_racing_nodes_on_one_file_all_get_subnets_of_their_own(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    server = SqliteServer(tmp_path_factory.mktemp("race") / "store.db")

    async def main() -> list[Lease]:
        async with AsyncExitStack() as stack:
            nodes = [
                await stack.enter_async_context(Node(server.options(prefix), f"192.0.2.{number}"))
                for number in range(1, 13)
            ]
            return await asyncio.gather(*(node.acquire(of_size(12)) for node in nodes))

    assert len({entry.key for entry in run(main())}) == 12


DUAL = parse('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
ONLY6 = parse('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')


def held_keys(server: Server, prefix: str) -> set[str]:
    return {
        name.removeprefix(f"{prefix}/subnets/")
        for name in server.everything(prefix)
        if "/subnets/" in name
    }


def test_network_that_gets_ipv6_and_loses_it_again_leaves_every_host_its_ipv4_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> list[Lease]:
        found = []
        for config, public_ips in ((NETWORK, ME), (DUAL, f"{ME},fd99::11"), (NETWORK, ME)):
            async with Node(server.options(prefix), public_ips, node_id="n1") as node:
                found.append(await node.acquire(config))
                # The key that does not fit goes in the same write.
                assert len(held_keys(server, prefix)) == 1
        return found

    single, dual, again = run(main())
    assert dual.key.ipv4 == single.key.ipv4
    assert dual.key.ipv6 is not None
    assert again.key == single.key
    assert held_keys(server, prefix) == {str(single.key).replace("/", "-")}


def test_hosts_without_ipv4_never_take_each_others_leases(server: Server, prefix: str) -> None:
    async def main() -> tuple[list[Lease], list[Lease]]:
        hosts = [f"fd99::{number}" for number in range(1, 5)]

        async def start(host: str, seed: int) -> Lease:
            async with Node(server.options(prefix), host, seed=seed) as node:
                return await node.acquire(ONLY6)

        first = list(await asyncio.gather(*(start(host, 1) for host in hosts)))
        again = [await start(host, 2) for host in reversed(hosts)]
        return first, again[::-1]

    first, again = run(main())
    assert [entry.key for entry in again] == [entry.key for entry in first]
    assert len({entry.key for entry in first}) == 4
    assert len(held_keys(server, prefix)) == 4
    assert all(name.startswith("0.0.0.0-0&fd00:10:5:") for name in held_keys(server, prefix))


def test_host_without_ipv4_whose_address_changed_keeps_its_subnet(
    server: Server, prefix: str
) -> None:
    async def main() -> tuple[Lease, Lease]:
        async with Node(server.options(prefix), "fd99::11", node_id="n1") as node:
            first = await node.acquire(ONLY6)
        async with Node(server.options(prefix), "fd99::77", node_id="n1", seed=2) as node:
            return first, await node.acquire(ONLY6)

    first, second = run(main())
    assert second.key == first.key
    assert str(second.attributes.public_ipv6) == "fd99::77"


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
            Node(server.options(prefix), f"{ALICE},fd99::12") as early,
            Node(server.options(prefix), f"{ME},fd99::11") as late,
        ):
            empty = await late.store.read()
            first = await early.acquire(DUAL, "10.5.7.0/24,fd00:10:5:7::/64")
            late.tracker = LeaseTracker()
            late.tracker.reset(empty)
            return first, await late.acquire(DUAL, wanted)

    first, second = run(main())
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
                    Node(server.options(prefix), f"192.0.2.{number},fd99::{number}")
                )
                for number in range(1, 6)
            ]
            return await asyncio.gather(*(node.acquire(DUAL) for node in nodes))

    subnets = [subnet for entry in run(main()) for subnet in entry.key.subnets]
    assert len(set(subnets)) == 10


def server_put(server: Server, prefix: str, name: str, public_ip: str) -> None:
    """Writes a lease without a grant, as somebody does by hand."""
    value = f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'
    server.put(f"{prefix}/subnets/{name}", value.encode())


def lease_name(prefix: str, lease: Lease) -> str:
    return f"{prefix}/subnets/{str(lease.key).replace('/', '-')}"
