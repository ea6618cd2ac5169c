"""A node among the others: it answers, and tells of two leases with one address."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.leases import key, record
from tests.support.stores import SqliteServer, run, until
from tests.unit.trust.values import BOB
from tunneld.daemon.membership import RETRY_S, Membership
from tunneld.daemon.presence import be_present
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import LeaseAttributes, RecordEncryption
from tunneld.lease.registry import Claim, Store
from tunneld.lease.roll_call import unanswered
from tunneld.store import open_store

PREFIX = "/net.example/network"
HERE, THERE = IPv4Address("192.0.2.11"), IPv4Address("192.0.2.12")


@pytest.fixture
def server(tmp_path: Path) -> SqliteServer:
    return SqliteServer(tmp_path / "store.db")


@asynccontextmanager
async def present(server: SqliteServer) -> AsyncIterator[tuple[Store, Membership]]:
    store = open_store(server.options(PREFIX))
    await store.write_config('{"Network": "10.5.0.0/16"}')
    keeper = Keeper(
        store,
        node_id="here",
        version="0.1.0",
        ttl_s=600.0,
        renew_margin_s=10.0,
        rng=random.Random(1),
        clock=asyncio.get_running_loop().time,
    )
    membership = Membership(store, keeper, PREFIX)
    tasks = [
        asyncio.create_task(membership.follow()),
        asyncio.create_task(be_present(membership, keeper)),
    ]
    try:
        config = await membership.first_config(None)
        await membership.join(config, LeaseAttributes(public_ip=HERE), None)
        yield store, membership
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


async def claim(store: Store, subnet: str) -> None:
    await store.claim(
        Claim(
            key=key(subnet),
            attributes=LeaseAttributes(public_ip=THERE),
            record=record(f"there-{subnet[5]}", subnet, str(THERE)),
            grant=await store.grant(600.0),
            expected_revision=0,
        )
    )


def test_live_node_answers_for_its_lease_and_for_no_other(
    server: SqliteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with present(server) as (store, membership):
            own = membership.own
            assert own is not None
            await claim(store, "10.5.1.0/24" if own.key != key("10.5.1.0/24") else "10.5.2.0/24")
            await until(lambda: len(membership.tracker.leases) == 2)
            leases = list(membership.tracker.leases)
            silent = await unanswered(
                store,
                lambda: membership.tracker.records,
                leases,
                question_id="0" * 32,
                asker=leases[0].holder,
                version="0.1.0",
            )
            assert silent == {lease.key for lease in leases} - {own.key}

    run(main())


def test_two_hosts_that_nothing_tells_apart_do_not_flood_the_store(
    server: SqliteServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine cloned while it ran, which gets the same address by DHCP too."""
    said = LeaseAttributes(public_ip=HERE)

    def taken() -> int:
        return sum("in place" in entry.getMessage() for entry in caplog.records)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with present(server) as (_, one), present(server) as (_, two):
            config = await one.first_config(None)
            begin_s = loop.time()
            fight = [asyncio.create_task(each.hold(config, said)) for each in (one, two)]
            await until(lambda: taken() >= 5)
            passed_s = loop.time() - begin_s
            for task in fight:
                task.cancel()
            await asyncio.gather(*fight, return_exceptions=True)
            # Each at once for the first time, and once in a second from then on.
            assert taken() <= 2 * (passed_s / RETRY_S + 2)

    with caplog.at_level(logging.INFO, "tunneld"):
        run(main())


def test_address_in_two_leases_is_told_when_it_begins_and_when_it_ends(
    server: SqliteServer, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[str]:
        return [
            f"{entry.getMessage()}: {entry.__dict__['fields'].get('error', '')}"
            for entry in caplog.records
            if "one address" in entry.getMessage() or "one lease again" in entry.getMessage()
        ]

    async def main() -> None:
        async with present(server) as (store, membership):
            for subnet in ("10.5.201.0/24", "10.5.202.0/24"):
                await claim(store, subnet)
            await until(lambda: bool(lines()))
            assert f"{THERE} (10.5.201.0/24 and 10.5.202.0/24)" in lines()[0]
            assert membership.problem is None
            server.delete(f"{PREFIX}/subnets/10.5.202.0-24")
            await until(lambda: len(lines()) == 2)
            assert lines()[1].startswith("each host has one lease again")

    with caplog.at_level(logging.INFO, "tunneld"):
        run(main())


def test_keys_are_in_the_record_as_soon_as_they_are_published_and_gone_as_soon(
    server: SqliteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease itself is not written again: nobody's data path changes for it."""
    # Else a look that is due anyway might find them.
    monkeypatch.setattr("tunneld.daemon.presence.PAUSE_S", 0.0)
    keys = RecordEncryption(key=BOB, port=8286, instance="00112233445566aa")

    def is_published(membership: Membership, said: RecordEncryption | None) -> bool:
        record = membership.tracker.record(membership.node_id)
        return record is not None and record.encryption == said

    async def main() -> None:
        async with present(server) as (store, membership):
            lease = membership.own
            assert lease is not None
            for said in (keys, replace(keys, instance="00112233445566bb"), None):
                membership.publish(said)
                await until(partial(is_published, membership, said))
            (found,) = (await store.read()).leases
            assert found.mod_revision == lease.mod_revision

    run(main())
