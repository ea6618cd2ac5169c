"""What every store does, on both: etcd over HTTP, etcd over TLS, and SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from tests.support.stores import Follower, Server, run, until, until_async
from tunneld.errors import GrantLostError, LeaseError, SubnetTakenError
from tunneld.lease.model import (
    ConfigPut,
    Event,
    Lease,
    LeaseAttributes,
    LeaseDeleted,
    LeasePut,
    MalformedDeleted,
    MalformedPut,
    NodeRecord,
    RecordDeleted,
    RecordPut,
    Reservation,
    ReservationPut,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.registry import Claim, Grant, Store
from tunneld.store import open_store

A = SubnetKey(IPv4Network("10.5.1.0/24"))
B = SubnetKey(IPv4Network("10.5.2.0/24"))
DUAL = SubnetKey(IPv4Network("10.5.57.0/24"), IPv6Network("fd00:10:5:1a::/64"))

# The keys that flannel's own tests refuse, below `<prefix>/subnets/`.
MALFORMED_KEYS = (
    "10",
    "10.12.13.0",
    "10.12.13-24",
    "10.12.13.300-24",
    "10.12.13.0-24hi",
    "&2001::-56",
    "10.12.13.0-24&:12:13:-56",
    "10.12.13.0-24&20011::-56",
    "10.12.13.0-24&2001-56",
    "10.12.13.0-24&2001::",
    "10.12.13.0-24&2001::-56hi",
)


@asynccontextmanager
async def opened(server: Server, prefix: str) -> AsyncIterator[Store]:
    store = open_store(server.options(prefix))
    try:
        yield store
    finally:
        await store.close()


def claim_of(
    grant: Grant,
    key: SubnetKey = A,
    *,
    node: str = "node-a",
    ip: str = "192.0.2.1",
    expected: int = 0,
    drop: tuple[Lease, ...] = (),
    reservation: Reservation | None = None,
) -> Claim:
    address = IPv4Address(ip)
    return Claim(
        key=key,
        attributes=LeaseAttributes(public_ip=address),
        record=NodeRecord(node_id=node, key=key, public_ip=address, version="0.1.0"),
        grant=grant,
        expected_revision=expected,
        drop=drop,
        reservation=reservation,
    )


def replay(snapshot: Snapshot, events: list[Event]) -> dict[str, object]:
    """What a reader of the watch believes, by the meaning of each event."""
    held: dict[str, object] = {"config": snapshot.config}
    held |= {str(lease.key): lease for lease in snapshot.leases}
    held |= {record.node_id: record for record in snapshot.records}
    for event in events:
        match event:
            case ConfigPut(text):
                held["config"] = text
            case LeasePut(lease):
                held[str(lease.key)] = lease
            case LeaseDeleted(key):
                held.pop(str(key), None)
            case RecordPut(record):
                held[record.node_id] = record
            case RecordDeleted(node_id):
                held.pop(node_id, None)
            case other:
                raise AssertionError(other)
    return held


def test_empty_store_reads_as_nothing(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            found = await store.read()
            assert found == Snapshot(revision=found.revision, config=None)
            assert store.status().connected
            assert store.status().revision == found.revision

    run(main())


def test_config_is_kept_byte_for_byte(server: Server, prefix: str) -> None:
    text = '{ "Network": "10.5.0.0/16",\n  "Backend": {"Type": "udp"} }\n'

    async def main() -> None:
        async with opened(server, prefix) as store:
            revision = await store.write_config(text)
            found = await store.read()
            assert found.config == text
            assert found.revision == revision
        assert server.everything(prefix) == {f"{prefix}/config": text.encode()}

    run(main())


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

    run(main())


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

    run(main())


def test_claim_of_a_held_subnet_writes_nothing(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            before = server.everything(prefix)
            late = claim_of(await store.grant(60), node="node-b", ip="192.0.2.2")
            with pytest.raises(SubnetTakenError):
                await store.claim(late)
        assert server.everything(prefix) == before

    run(main())


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

    run(main())


def test_claim_sent_again_after_its_answer_was_lost_succeeds(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            claim = claim_of(await store.grant(60))
            first = await store.claim(claim)
            assert await store.claim(claim) == first

    run(main())


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

    run(main())


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

    run(main())


def test_nothing_is_written_when_a_lease_to_drop_was_changed(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            old = await store.claim(claim_of(grant))
            newer = await store.claim(claim_of(grant, ip="192.0.2.9", expected=old.mod_revision))
            with pytest.raises(SubnetTakenError):
                await store.claim(claim_of(grant, B, drop=(old,)))
            assert (await store.read()).leases == (newer,)

    run(main())


def test_reservation_outlives_the_grant(server: Server, prefix: str) -> None:
    reservation = Reservation(key=A, public_ip=IPv4Address("192.0.2.1"))

    async def main() -> None:
        async with opened(server, prefix) as store:
            async with Follower(store) as follower:
                grant = await store.grant(1)
                await store.claim(claim_of(grant, reservation=reservation))
                await until(lambda: LeaseDeleted(A) in follower.events)
                assert ReservationPut(reservation) in follower.events
            found = await store.read()
            assert (found.leases, found.reservations) == ((), (reservation,))
        assert list(server.everything(prefix)) == [f"{prefix}/tunneld/reservations/10.5.1.0-24"]

    run(main())


def test_ended_grant_takes_lease_and_record_with_it(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store, opened(server, prefix) as other:
            async with Follower(other) as follower:
                grant = await store.grant(1)
                lease = await store.claim(claim_of(grant))
                await until(lambda: RecordDeleted("node-a") in follower.events)
                assert LeasePut(lease) in follower.events
                assert LeaseDeleted(A) in follower.events
            with pytest.raises(GrantLostError):
                await store.keep_alive(grant)
            with pytest.raises(GrantLostError):
                await store.claim(claim_of(grant, B))
            assert await store.remaining([grant.grant_id]) == {}
            assert (await store.read()).leases == ()

    run(main())


def test_lease_kept_alive_outlives_its_first_time_unseen_by_others(
    server: Server, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(1)
            lease = await store.claim(claim_of(grant))
            loop = asyncio.get_running_loop()
            end = loop.time() + 2.5 * grant.ttl_s
            async with Follower(store) as follower:

                async def kept_long_enough() -> bool:
                    assert (await store.keep_alive(grant)).ttl_s == grant.ttl_s
                    return loop.time() > end

                await until_async(kept_long_enough)
                assert follower.events == []
            assert (await store.read()).leases == (lease,)

    run(main())


def test_remaining_time_is_told_for_known_grants_only(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grants = [await store.grant(100), await store.grant(1000)]
            left = await store.remaining([grants[0].grant_id, grants[1].grant_id, 0, 12345])
            assert set(left) == {grant.grant_id for grant in grants}
            assert 90 < left[grants[0].grant_id] <= 100
            assert 990 < left[grants[1].grant_id] <= 1000

    run(main())


def test_withdrawn_lease_is_gone_with_its_record(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            assert await store.withdraw(lease, "node-a") is True
            assert server.everything(prefix) == {}
            # As when the first answer was lost.
            assert await store.withdraw(lease, "node-a") is True

    run(main())


def test_lease_somebody_else_wrote_is_not_withdrawn(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            server.put(f"{prefix}/subnets/10.5.1.0-24", b'{"PublicIP":"192.0.2.66"}')
            before = server.everything(prefix)
            assert await store.withdraw(lease, "node-a") is False
            assert server.everything(prefix) == before

    run(main())


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

    run(main())


def test_watch_tells_every_change_in_order(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store, opened(server, prefix) as writer:
            await writer.write_config("{}")
            grant = await writer.grant(60)
            first = await writer.claim(claim_of(grant))
            async with Follower(store) as follower:
                assert follower.snapshots[0].leases == (first,)
                second = await writer.claim(claim_of(grant, B, node="node-b"))
                await writer.write_config('{"Network":"10.5.0.0/16"}')
                await writer.withdraw(first, "node-a")
                server.delete(f"{prefix}/config")
                await until(lambda: ConfigPut(None) in follower.events)
                assert [event for event in follower.events if not isinstance(event, RecordPut)] == [
                    LeasePut(second),
                    ConfigPut('{"Network":"10.5.0.0/16"}'),
                    LeaseDeleted(A),
                    RecordDeleted("node-a"),
                    ConfigPut(None),
                ]
                revisions = [item.revision for item in follower.seen]
                assert revisions == sorted(revisions)
                assert follower.snapshots == follower.seen[:1]
                last = await store.read()
                assert replay(follower.snapshots[0], follower.events) == replay(last, [])

    run(main())


def test_malformed_entries_are_told_and_hurt_nobody(server: Server, prefix: str) -> None:
    values = {
        "10.5.3.0-24": b"{",
        "10.5.4.0-24": b'{"PublicIP":null}',
        "10.5.5.0-24": b'{"PublicIP":""}',
        "10.5.6.0-24": b'{"PublicIP":"fd00::1"}',
        "10.5.7.0-24": b"[]",
        "10.5.8.0-24": b"\xff\xfe",
    }

    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            async with Follower(store) as follower:
                for key in MALFORMED_KEYS:
                    server.put(f"{prefix}/subnets/{key}", b'{"PublicIP":"192.0.2.9"}')
                # flannel lists without the closing slash.
                server.put(f"{prefix}/subnets-of-others", b"x")
                for key, value in values.items():
                    server.put(f"{prefix}/subnets/{key}", value)
                server.delete(f"{prefix}/subnets/10")
                server.delete(f"{prefix}/subnets/10.5.3.0-24")
                closing = LeaseDeleted(SubnetKey(IPv4Network("10.5.3.0/24")))
                await until(lambda: closing in follower.events)
                told = [event for event in follower.events if isinstance(event, MalformedPut)]
                rest = [event for event in follower.events if not isinstance(event, MalformedPut)]
            assert [event.entry.name for event in told if event.key is None] == [
                *(f"{prefix}/subnets/{key}" for key in MALFORMED_KEYS),
                f"{prefix}/subnets-of-others",
            ]
            assert {event.entry.reason for event in told if event.key is None} == {"malformed_key"}
            assert [str(event.key) for event in told if event.key is not None] == [
                key.replace("-", "/") for key in values
            ]
            assert {event.entry.reason for event in told if event.key} == {"malformed_value"}
            assert rest == [MalformedDeleted(f"{prefix}/subnets/10"), closing]
            found = await store.read()
            assert found.leases == (lease,)
            assert len(found.malformed) == len(MALFORMED_KEYS) + 1 + len(values) - 2

    run(main())


def test_record_that_became_unreadable_is_taken_back(server: Server, prefix: str) -> None:
    name = f"{prefix}/tunneld/nodes/node-a"

    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.claim(claim_of(await store.grant(60)))
            async with Follower(store) as follower:
                server.put(name, b'{"Format":2}')
                await until(lambda: len(follower.events) == 2)
                assert follower.events[0] == RecordDeleted("node-a")
                assert isinstance(follower.events[1], MalformedPut)
            found = await store.read()
            assert [entry.name for entry in found.malformed] == [name]

    run(main())


def test_keys_of_others_are_not_ours(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.write_config("{}")
            async with Follower(store) as follower:
                server.put(f"{prefix}/other", b"1")
                server.put(f"{prefix}/tunneld/later/x", b"1")
                server.put(f"{prefix}2/config", b"{}")
                server.put(f"{prefix}/config", b'{"a":1}')
                await until(lambda: ConfigPut('{"a":1}') in follower.events)
                assert follower.events == [ConfigPut('{"a":1}')]
            found = await store.read()
            assert found == Snapshot(revision=found.revision, config='{"a":1}')

    run(main())


def test_prefix_with_surplus_slashes_is_the_same_network(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, f"/{prefix}//") as store:
            await store.write_config("{}")
        async with opened(server, prefix) as store:
            assert (await store.read()).config == "{}"

    run(main())


def test_listing_of_2500_leases_is_whole_and_at_one_revision(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(600)
            keys = [
                SubnetKey(IPv4Network(f"10.{number >> 8}.{number & 255}.0/24"))
                for number in range(2_500)
            ]
            for start in range(0, len(keys), 50):
                await asyncio.gather(
                    *(
                        store.claim(claim_of(grant, key, node=f"n{start + index}"))
                        for index, key in enumerate(keys[start : start + 50])
                    )
                )
            found = await store.read()
            assert sorted(lease.key for lease in found.leases) == keys
            assert len(found.records) == 2_500
            assert max(lease.mod_revision for lease in found.leases) == found.revision

    run(main())
