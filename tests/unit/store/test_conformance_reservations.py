"""Reservations written and released, on every store: etcd over HTTP and TLS, SQLite, memory."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.support.stores import Server
from tests.unit.store.opened import claim_of, opened
from tunneld.errors import SubnetTakenError
from tunneld.lease.model import Reservation, SubnetKey

KEY = SubnetKey(IPv4Network("10.5.1.0/24"))
HERE = Reservation(key=KEY, public_ip=IPv4Address("10.99.0.13"))
ELSEWHERE = Reservation(key=KEY, public_ip=IPv4Address("10.99.0.14"))


def test_reservation_has_a_key_of_its_own_and_no_end(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            for _ in range(2):  # the second as when the first answer was lost
                await store.reserve(HERE, lease_revision=0)
            assert (await store.read()).reservations == (HERE,)
        assert server.everything(prefix) == {
            f"{prefix}/tunneld/reservations/10.5.1.0-24": b'{"Format":1,"PublicIP":"10.99.0.13"}'
        }

    server.run(main())


def test_reservation_of_another_host_stays(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            await store.reserve(ELSEWHERE, lease_revision=0)
            with pytest.raises(SubnetTakenError, match=r"10\.5\.1\.0/24"):
                await store.reserve(HERE, lease_revision=0)
            assert (await store.read()).reservations == (ELSEWHERE,)

    server.run(main())


def test_lease_that_came_meanwhile_prevents_a_reservation(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            with pytest.raises(SubnetTakenError):
                await store.reserve(ELSEWHERE, lease_revision=0)
            assert (await store.read()).reservations == ()
            await store.reserve(HERE, lease_revision=lease.mod_revision)
            assert (await store.read()).reservations == (HERE,)

    server.run(main())


def test_release_deletes_the_reservation_alone(server: Server, prefix: str) -> None:
    async def main() -> None:
        async with opened(server, prefix) as store:
            lease = await store.claim(claim_of(await store.grant(60)))
            await store.reserve(HERE, lease_revision=lease.mod_revision)
            for _ in range(2):
                assert await store.release(KEY, None, None) is True
                found = await store.read()
                assert (found.leases, found.reservations) == ((lease,), ())

    server.run(main())


def test_released_lease_without_an_end_gets_one(server: Server, prefix: str) -> None:
    name, value = f"{prefix}/subnets/10.5.1.0-24", b'{"PublicIP":"192.0.2.66","PublicIPv6":null}'

    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(600)
            server.put(name, value)
            [lease] = (await store.read()).leases
            for _ in range(2):
                assert await store.release(KEY, lease, grant) is True
            assert server.everything(prefix) == {name: value}
            [ending] = (await store.read()).leases
            assert ending.grant_id == grant.grant_id
            left = await store.remaining([ending.grant_id])
            assert 0 < left[ending.grant_id] <= 600

    server.run(main())


def test_lease_that_somebody_wrote_meanwhile_keeps_what_it_has(server: Server, prefix: str) -> None:
    name = f"{prefix}/subnets/10.5.1.0-24"

    async def main() -> None:
        async with opened(server, prefix) as store:
            grant = await store.grant(600)
            server.put(name, b'{"PublicIP":"192.0.2.66"}')
            [lease] = (await store.read()).leases
            server.put(name, b'{"PublicIP":"192.0.2.67"}')
            assert await store.release(KEY, lease, grant) is False
            [found] = (await store.read()).leases
            assert found.is_reservation

    server.run(main())
