"""Short ways to open a store and to claim a subnet, in tests of the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

from tests.support.stores import Server
from tunneld.errors import GrantLostError
from tunneld.lease.model import Lease, LeaseAttributes, NodeRecord, Reservation, SubnetKey
from tunneld.lease.registry import Claim, Grant, Store
from tunneld.store import StoreOptions, open_store

A = SubnetKey(IPv4Network("10.5.1.0/24"))
B = SubnetKey(IPv4Network("10.5.2.0/24"))


@asynccontextmanager
async def closing(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.close()


def opened_with(options: StoreOptions) -> AbstractAsyncContextManager[Store]:
    return closing(open_store(options))


def opened(server: Server, prefix: str) -> AbstractAsyncContextManager[Store]:
    return closing(server.open(prefix))


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


async def claimed_for(
    ttl_s: float, store: Store, reservation: Reservation | None = None
) -> tuple[Grant, Lease]:
    """Returns a new grant of a short time, and a lease under it.

    A machine that is busy may let the time pass before the claim, which then writes nothing.
    """
    while True:
        grant = await store.grant(ttl_s)
        try:
            return grant, await store.claim(claim_of(grant, reservation=reservation))
        except GrantLostError:
            continue
