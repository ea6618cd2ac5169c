"""Short ways to write leases, records and networks in tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from tunneld.lease.model import (
    Lease,
    LeaseAttributes,
    NodeRecord,
    Reservation,
    Snapshot,
    SubnetKey,
)


def key(subnet: str) -> SubnetKey:
    return SubnetKey(IPv4Network(subnet))


def lease(
    subnet: str, public_ip: str, *, grant_id: int = 7, create: int = 1, mod: int | None = None
) -> Lease:
    return Lease(
        key=key(subnet),
        attributes=LeaseAttributes(public_ip=IPv4Address(public_ip)),
        grant_id=grant_id,
        create_revision=create,
        mod_revision=create if mod is None else mod,
    )


def record(node_id: str, subnet: str, public_ip: str) -> NodeRecord:
    return NodeRecord(
        node_id=node_id, key=key(subnet), public_ip=IPv4Address(public_ip), version="0.1.0"
    )


def reservation(subnet: str, public_ip: str) -> Reservation:
    return Reservation(key=key(subnet), public_ip=IPv4Address(public_ip))


def table(
    *entries: Lease | NodeRecord | Reservation, revision: int = 100, config: str | None = None
) -> Snapshot:
    return Snapshot(
        revision=revision,
        config=config,
        leases=tuple(entry for entry in entries if isinstance(entry, Lease)),
        records=tuple(entry for entry in entries if isinstance(entry, NodeRecord)),
        reservations=tuple(entry for entry in entries if isinstance(entry, Reservation)),
    )
