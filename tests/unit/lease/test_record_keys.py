"""What a node says of its keys is written with its lease, and with each answer after."""

from __future__ import annotations

from tests.support.stores import Server
from tests.unit.lease.nodes import Node
from tests.unit.lease.values import ME, NETWORK
from tunneld.lease.attendance import Attendance
from tunneld.lease.model import RecordEncryption

KEYS = RecordEncryption(
    key="3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=", port=8286, instance="00112233445566ff"
)


def attendance(node: Node) -> Attendance:
    return node.keeper._attendance


def test_a_record_has_keys_once_there_are_some_and_no_sooner(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with Node(server.open(prefix), ME, node_id="plain") as plain:
            await plain.acquire(NETWORK)
            (record,) = (await plain.store.read()).records
            assert record.encryption is None
            attendance(plain).encryption = KEYS
            await plain.acquire(NETWORK)
            (record,) = (await plain.store.read()).records
            assert record.encryption == KEYS, "the lease is as it was, and its record is not"
            await plain.keeper.leave()
        async with Node(server.open(prefix), ME, node_id="keyed") as keyed:
            attendance(keyed).encryption = KEYS
            lease = await keyed.acquire(NETWORK)
            (record,) = (await keyed.store.read()).records
            assert record.describes(lease)
            assert record.encryption == KEYS

    server.run(main())
