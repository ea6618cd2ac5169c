"""Leases written and withdrawn, on every store: etcd over HTTP and TLS, SQLite, memory."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from tests.support.stores import Follower, Server, until
from tests.unit.store.opened import A, B, claim_of, opened
from tunneld.errors import LeaseError, SubnetTakenError
from tunneld.lease.model import LeaseAttributes, LeaseDeleted, LeasePut, NodeRecord, SubnetKey
from tunneld.lease.registry import Claim

DUAL = SubnetKey(IPv4Network("10.5.57.0/24"), IPv6Network("fd00:10:5:1a::/64"))


def test_claim_writes_the_bytes_flannel_writes(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60), ip="10.99.0.13"))
            assert lease.mod_revision == lease.create_revision
            found = await store.read()
            assert found.leases == (lease,)
            assert [record.node_id for record in found.records] == ["node-a"]
        entries = server.everything(prefix)
        assert entries.pop(f"{prefix}/subnets/10.5.1.0-24") == (
            b'{"PublicIP":"10.99.0.13","PublicIPv6":null}'
        )
        assert list(entries) == [f"{prefix}/tunneld/nodes/node-a"]

    server.run(main())


def test_dual_stack_lease_has_flannels_key(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            record = NodeRecord(
                node_id="n", key=DUAL, public_ip=IPv4Address("10.99.0.11"), version="0.1.0"
            )
            attributes = LeaseAttributes(
                public_ip=IPv4Address("10.99.0.11"),
                public_ipv6=IPv6Address("fd99::11"),
                backend_type="vxlan",
                backend_data={"VNI": 1, "VtepMAC": "ba:96:e6:9c:99:ba"},
                backend_v6_data={"VNI": 1, "VtepMAC": "12:ed:dc:97:cc:d5"},
            )
            claim = Claim(
                key=DUAL, attributes=attributes, record=record, grant=grant, expected_revision=0
            )
            assert (await store.claim(claim)).attributes == attributes
        assert server.everything(f"{prefix}/subnets") == {
            f"{prefix}/subnets/10.5.57.0-24&fd00:10:5:1a::-64": (
                b'{"PublicIP":"10.99.0.11","PublicIPv6":"fd99::11","BackendType":"vxlan",'
                b'"BackendData":{"VNI":1,"VtepMAC":"ba:96:e6:9c:99:ba"},'
                b'"BackendV6Data":{"VNI":1,"VtepMAC":"12:ed:dc:97:cc:d5"}}'
            )
        }

    server.run(main())


def test_claim_of_a_held_subnet_writes_nothing(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            before = server.everything(prefix)
            late = claim_of(await store.grant(60), node="node-b", ip="192.0.2.2")
            with pytest.raises(SubnetTakenError):
                await store.claim(late)
        assert server.everything(prefix) == before

    server.run(main())


def test_of_two_racing_writers_exactly_one_wins(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as one, opened(server, prefix) as two:
            grants = [await one.grant(60), await two.grant(60)]
            for number in range(20):
                key = SubnetKey(IPv4Network(f"10.5.{number}.0/24"))
                results = await asyncio.gather(
                    one.claim(claim_of(grants[0], key, node="node-a", ip="192.0.2.1")),
                    two.claim(claim_of(grants[1], key, node="node-b", ip="192.0.2.2")),
                    return_exceptions=True,
                )
                assert sorted(type(result).__name__ for result in results) == [
                    "Lease",
                    "SubnetTakenError",
                ]
            assert len((await one.read()).leases) == 20

    server.run(main())


def test_claim_sent_again_after_its_answer_was_lost_succeeds(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            claim = claim_of(await store.grant(60))
            first = await store.claim(claim)
            assert await store.claim(claim) == first

    server.run(main())


def test_lease_is_changed_in_place_only_at_the_revision_it_was_seen_with(
    server: Server, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            first = await store.claim(claim_of(grant))
            moved = claim_of(grant, ip="192.0.2.7", expected=first.mod_revision)
            second = await store.claim(moved)
            assert second.create_revision == first.create_revision
            assert second.mod_revision > first.mod_revision
            with pytest.raises(SubnetTakenError):
                await store.claim(claim_of(grant, ip="192.0.2.8", expected=first.mod_revision))
            assert (await store.read()).leases == (second,)

    server.run(main())


def test_dropped_leases_go_in_the_write_that_takes_their_place(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            old = await store.claim(claim_of(grant))
            async with Follower(store) as follower:
                new = await store.claim(claim_of(grant, B, drop=(old,)))
                await until(lambda: len(follower.events) >= 3)
                assert len(follower.batches) == 1
                assert follower.events[0] == LeaseDeleted(A)
                assert follower.events[1] == LeasePut(new)
            assert (await store.read()).leases == (new,)

    server.run(main())


def test_nothing_is_written_when_a_lease_to_drop_was_changed(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            old = await store.claim(claim_of(grant))
            newer = await store.claim(claim_of(grant, ip="192.0.2.9", expected=old.mod_revision))
            with pytest.raises(SubnetTakenError):
                await store.claim(claim_of(grant, B, drop=(old,)))
            assert (await store.read()).leases == (newer,)

    server.run(main())


def test_withdrawn_lease_is_gone_with_its_record(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            assert await store.withdraw(lease, "node-a") is True
            assert server.everything(prefix) == {}
            # As when the first answer was lost.
            assert await store.withdraw(lease, "node-a") is True

    server.run(main())


def test_lease_somebody_else_wrote_is_not_withdrawn(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            server.put(f"{prefix}/subnets/10.5.1.0-24", b'{"PublicIP":"192.0.2.66"}')
            before = server.everything(prefix)
            assert await store.withdraw(lease, "node-a") is False
            assert server.everything(prefix) == before

    server.run(main())


def test_key_flannel_could_not_read_is_never_written(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            for subnet in ("10.5.1.7/32", "0.0.0.0/0"):
                with pytest.raises(LeaseError):
                    await store.claim(claim_of(grant, SubnetKey(IPv4Network(subnet))))
            with pytest.raises(LeaseError):
                await store.claim(claim_of(grant, node="../subnets/x"))
        assert server.everything(prefix) == {}

    server.run(main())
