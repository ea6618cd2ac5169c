"""What a listing and a watch tell, on every store."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network

from tests.support.goldens import MALFORMED_KEYS
from tests.support.stores import Follower, Server, until
from tests.unit.store.opened import A, B, claim_of, opened
from tunneld.lease.model import (
    ConfigPut,
    Event,
    LeaseDeleted,
    LeasePut,
    MalformedDeleted,
    MalformedPut,
    RecordDeleted,
    RecordPut,
    Snapshot,
    SubnetKey,
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

    server.run(main())


def test_config_is_kept_byte_for_byte(server: Server, prefix: str) -> None:
    text = '{ "Network": "10.5.0.0/16",\n  "Backend": {"Type": "udp"} }\n'

    async def main() -> None:
        async with opened(server, prefix) as store:
            revision = await store.write_config(text)
            found = await store.read()
            assert found.config == text
            assert found.revision == revision
        assert server.everything(prefix) == {f"{prefix}/config": text.encode()}

    server.run(main())


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

    server.run(main())


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

    server.run(main())


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

    server.run(main())


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

    server.run(main())


def test_prefix_with_surplus_slashes_is_the_same_network(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, f"/{prefix}//") as store:
            await store.write_config("{}")
        async with opened(server, prefix) as store:
            assert (await store.read()).config == "{}"

    server.run(main())


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

    server.run(main())
