"""Short ways to write leases, records and networks in tests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    Holder,
    Lease,
    LeaseAttributes,
    NodeRecord,
    Reservation,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.selection import Usable


def key(subnets: str) -> SubnetKey:
    """Returns the key of `a.b.c.d/len`, `a:b::/len` or both with a comma between."""
    texts = subnets.split(",")
    ipv4 = next((IPv4Network(text) for text in texts if ":" not in text), NO_IPV4_SUBNET)
    ipv6 = next((IPv6Network(text) for text in texts if ":" in text), None)
    return SubnetKey(ipv4, ipv6)


def holder(public_ips: str) -> Holder:
    """Returns the host of `a.b.c.d`, `a:b::c` or both with a comma between."""
    texts = public_ips.split(",")
    ipv4 = next((IPv4Address(text) for text in texts if ":" not in text), IPv4Address(0))
    ipv6 = next((IPv6Address(text) for text in texts if ":" in text), None)
    return Holder(ipv4, ipv6)


def lease(
    subnets: str, public_ips: str, *, grant_id: int = 7, create: int = 1, mod: int | None = None
) -> Lease:
    host = holder(public_ips)
    return Lease(
        key=key(subnets),
        attributes=LeaseAttributes(public_ip=host.public_ip, public_ipv6=host.public_ipv6),
        grant_id=grant_id,
        create_revision=create,
        mod_revision=create if mod is None else mod,
    )


def usable(lease: Lease, *withheld: str) -> Usable:
    subnets = frozenset(subnet for subnet in lease.key.subnets if str(subnet) in withheld)
    assert len(subnets) == len(withheld)
    return Usable(lease=lease, withheld=subnets)


def record(
    node_id: str, subnets: str, public_ips: str, *, machine: str | None = None
) -> NodeRecord:
    host = holder(public_ips)
    return NodeRecord(
        node_id=node_id,
        key=key(subnets),
        public_ip=host.public_ip,
        public_ipv6=host.public_ipv6,
        version="0.1.0",
        extra={} if machine is None else {"Machine": machine},
    )


def reservation(subnets: str, public_ips: str) -> Reservation:
    host = holder(public_ips)
    return Reservation(key=key(subnets), public_ip=host.public_ip, public_ipv6=host.public_ipv6)


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
