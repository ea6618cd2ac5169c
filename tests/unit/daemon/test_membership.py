"""A node's place in a network that it cannot share, on a real store."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from tests.support.leases import key
from tests.support.stores import SqliteServer, run, until
from tunneld.daemon.membership import Membership
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import Lease, LeaseAttributes, NodeRecord
from tunneld.lease.registry import Claim
from tunneld.lease.selection import Skipped
from tunneld.store import open_store

PREFIX = "/net.example/network"
ONLY6 = '{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}'
DUAL = '{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}'


def attributes(public_ipv6: str, public_ip: str = "0.0.0.0") -> LeaseAttributes:
    return LeaseAttributes(public_ip=IPv4Address(public_ip), public_ipv6=IPv6Address(public_ipv6))


@asynccontextmanager
async def following(server: SqliteServer, node_id: str) -> AsyncIterator[Membership]:
    store = open_store(server.options(PREFIX))
    keeper = Keeper(
        store,
        node_id=node_id,
        version="0.1.0",
        ttl_s=60.0,
        renew_margin_s=10.0,
        rng=random.Random(1),
        clock=asyncio.get_running_loop().time,
    )
    membership = Membership(store, keeper, PREFIX)
    task = asyncio.create_task(membership.follow())
    try:
        yield membership
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()


async def write_flanneld(server: SqliteServer, subnets: str, said: LeaseAttributes) -> None:
    """Writes a lease under a grant and no record beside it, as a flanneld does."""
    store = open_store(server.options(PREFIX))
    record = NodeRecord(
        node_id="gone",
        key=key(subnets),
        public_ip=said.public_ip,
        public_ipv6=said.public_ipv6,
        version="0.1.0",
    )
    await store.claim(
        Claim(
            key=key(subnets),
            attributes=said,
            record=record,
            grant=await store.grant(60.0),
            expected_revision=0,
        )
    )
    await store.close()
    server.delete(f"{PREFIX}/tunneld/nodes/gone")


@pytest.fixture
def server(tmp_path: Path) -> SqliteServer:
    return SqliteServer(tmp_path / "store.db")


async def configure(server: SqliteServer, text: str) -> None:
    store = open_store(server.options(PREFIX))
    await store.write_config(text)
    await store.close()


async def join(membership: Membership, said: LeaseAttributes) -> Lease:
    config = await membership.first_config(None)
    return await membership.join(config, said, None)


def test_newcomer_waits_while_a_flanneld_is_in_a_network_without_ipv4(
    server: SqliteServer,
) -> None:
    async def main() -> None:
        await configure(server, ONLY6)
        await write_flanneld(server, "fd00:10:5:1::/64", attributes("fd99::66"))
        before = server.everything(PREFIX)
        async with following(server, "n1") as membership:
            joining = asyncio.create_task(join(membership, attributes("fd99::11")))
            await until(lambda: "flanneld holds fd00:10:5:1::/64" in (membership.problem or ""))
            assert server.everything(PREFIX) == before
            server.delete(f"{PREFIX}/subnets/0.0.0.0-0&fd00:10:5:1::-64")
            assert (await joining).attributes == attributes("fd99::11")
            assert membership.problem is None

    run(main())


def test_network_with_ipv4_is_shared_with_a_flanneld(server: SqliteServer) -> None:
    async def main() -> None:
        await configure(server, DUAL)
        other = attributes("fd99::66", "192.0.2.66")
        await write_flanneld(server, "10.5.1.0/24,fd00:10:5:1::/64", other)
        async with following(server, "n1") as membership:
            await join(membership, attributes("fd99::11", "192.0.2.11"))
            assert membership.problem is None

    run(main())


def test_flanneld_that_comes_later_is_a_problem_told_once_until_it_has_gone(
    server: SqliteServer, caplog: pytest.LogCaptureFixture
) -> None:
    def errors() -> list[logging.LogRecord]:
        return [entry for entry in caplog.records if entry.levelno == logging.ERROR]

    async def main() -> None:
        await configure(server, ONLY6)
        async with following(server, "n1") as membership:
            await join(membership, attributes("fd99::11"))
            assert membership.problem is None
            await write_flanneld(server, "fd00:10:5:ff::/64", attributes("fd99::66"))
            await until(lambda: "fd00:10:5:ff::/64" in (membership.problem or ""))
            await configure(server, f"{ONLY6} ")
            await until(lambda: membership.tracker.config_text == f"{ONLY6} ")
            assert len(errors()) == 1
            server.delete(f"{PREFIX}/subnets/0.0.0.0-0&fd00:10:5:ff::-64")
            await until(lambda: membership.problem is None)

    run(main())


def test_node_that_is_in_the_network_already_comes_back_beside_a_flanneld(
    server: SqliteServer,
) -> None:
    async def main() -> tuple[Lease, Lease]:
        await configure(server, ONLY6)
        async with following(server, "n1") as membership:
            first = await join(membership, attributes("fd99::11"))
            await write_flanneld(server, "fd00:10:5:ff::/64", attributes("fd99::66"))
        async with following(server, "n1") as membership:
            again = await join(membership, attributes("fd99::11"))
            assert "fd00:10:5:ff::/64" in (membership.problem or "")
            return first, again

    first, again = run(main())
    assert again.key == first.key


def test_record_that_is_gone_is_written_again_beside_the_lease(server: SqliteServer) -> None:
    record = f"{PREFIX}/tunneld/nodes/n1"

    async def main() -> None:
        await configure(server, DUAL)
        said = attributes("fd99::11", "192.0.2.11")
        async with following(server, "n1") as membership:
            lease = await join(membership, said)
            config = await membership.first_config(None)
            holding = asyncio.create_task(membership.hold(config, said))
            server.delete(record)
            await until(lambda: record in server.everything(PREFIX))
            await until(lambda: membership.problem is None)
            assert membership.own is not None
            assert membership.own.key == lease.key
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    run(main())


def test_lease_that_a_restored_store_has_at_another_revision_can_still_be_given_back(
    server: SqliteServer,
) -> None:
    async def main() -> None:
        await configure(server, DUAL)
        said = attributes("fd99::11", "192.0.2.11")
        async with following(server, "n1") as membership:
            await join(membership, said)
            config = await membership.first_config(None)
            holding = asyncio.create_task(membership.hold(config, said))
            with server._write() as db:
                db.execute("UPDATE state SET file_id = 'restored'")
                db.execute("UPDATE entries SET mod_revision = 1 WHERE grant_id != 0")
            await until(lambda: membership.own is not None and membership.own.mod_revision == 1)
            await membership.leave()
            assert not [name for name in server.everything(PREFIX) if "/subnets/" in name]
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)

    run(main())


def test_lease_skipped_while_none_is_got_back_is_counted_once_that_is_given_up(
    server: SqliteServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        await configure(server, DUAL)
        said = attributes("fd99::11", "192.0.2.11")
        bad = Skipped(name="10.5.9.0/24", reason="wrong_vni", detail="VNI 2", mod_revision=1)
        asked, full = asyncio.Event(), asyncio.Event()

        async def acquire(*_: object) -> Lease:
            asked.set()
            await full.wait()
            full.clear()
            raise SubnetExhaustedError("no subnet is free")

        async with following(server, "n1") as membership:
            lease = await join(membership, said)
            tracker = membership.tracker
            await until(lambda: tracker.revision >= lease.mod_revision)
            monkeypatch.setattr(membership._keeper, "acquire", acquire)
            joining = asyncio.create_task(join(membership, said))
            await asked.wait()
            membership.tell_skipped([bad])
            assert not any(tracker.skip_counts.values())
            with membership.telling(lambda: membership.tell_skipped([bad])):
                full.set()
                await until(lambda: tracker.skip_counts.get("wrong_vni") == 1)
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)

    run(main())
