"""What ends with a grant and what does not, on every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.support.stores import Follower, Server, until, until_async
from tests.unit.store.opened import A, B, claim_of, claimed_for, opened
from tunneld.errors import GrantLostError
from tunneld.lease.model import (
    LeaseDeleted,
    LeasePut,
    RecordDeleted,
    RecordPut,
    Reservation,
    ReservationPut,
)
from tunneld.lease.registry import Grant


def test_reservation_outlives_the_grant(server: Server, prefix: str) -> None:
    reservation = Reservation(key=A, public_ip=IPv4Address("192.0.2.1"))

    async def main() -> None:
        async with opened(server, prefix) as store:
            async with Follower(store) as follower:
                await claimed_for(1, store, reservation)
                await until(lambda: LeaseDeleted(A) in follower.events)
                assert ReservationPut(reservation) in follower.events
            found = await store.read()
            assert (found.leases, found.reservations) == ((), (reservation,))
        assert list(server.everything(prefix)) == [f"{prefix}/tunneld/reservations/10.5.1.0-24"]

    server.run(main())


def test_ended_grant_takes_lease_and_record_with_it(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store, opened(server, prefix) as other:
            async with Follower(other) as follower:
                grant, lease = await claimed_for(1, store)
                await until(lambda: RecordDeleted("node-a") in follower.events)
                assert LeasePut(lease) in follower.events
                assert LeaseDeleted(A) in follower.events
            with pytest.raises(GrantLostError):
                await store.keep_alive(grant)
            with pytest.raises(GrantLostError):
                await store.claim(claim_of(grant, B))
            assert await store.remaining([grant.grant_id]) == {}
            assert (await store.read()).leases == ()

    server.run(main())


def test_lease_kept_alive_outlives_its_first_time_unseen_by_others(
    server: Server, prefix: str
) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            # Long enough for a machine that stops for a moment.
            grant = await store.grant(5)
            lease = await store.claim(claim_of(grant))
            loop = asyncio.get_running_loop()
            end = loop.time() + 1.5 * grant.ttl_s
            async with Follower(store) as follower:

                async def kept_long_enough() -> bool:
                    assert (await store.keep_alive(grant)).ttl_s == grant.ttl_s
                    return loop.time() > end

                await until_async(kept_long_enough)
                assert follower.events == []
            assert (await store.read()).leases == (lease,)

    server.run(main())


def test_remaining_time_is_told_for_known_grants_only(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grants = [await store.grant(100), await store.grant(1000)]
            left = await store.remaining([grants[0].grant_id, grants[1].grant_id, 0, 12345])
            assert set(left) == {grant.grant_id for grant in grants}
            assert 90 < left[grants[0].grant_id] <= 100
            assert 990 < left[grants[1].grant_id] <= 1000

    server.run(main())


def test_record_is_written_alone_under_a_grant_and_dropped(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(60)
            lease = await store.claim(claim_of(grant))
            record = replace(claim_of(grant).record, version="0.2.0")
            async with Follower(store) as follower:
                await store.write_record(record, grant)
                await store.drop_record("node-a")
                # What is not there is dropped without a word.
                await store.drop_record("node-a")
                await store.write_record(record, grant)
                await until(lambda: len(follower.events) == 3)
                assert follower.events == [
                    RecordPut(record),
                    RecordDeleted("node-a"),
                    RecordPut(record),
                ]
            with pytest.raises(GrantLostError):
                await store.write_record(record, Grant(grant_id=12345, ttl_s=60.0))
            found = await store.read()
            assert (found.leases, found.records) == ((lease,), (record,))

    server.run(main())
