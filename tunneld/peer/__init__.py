"""Joins a lease and its node's record into one Peer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from tunneld.lease.model import IPNetwork, NodeRecord, RecordEncryption, SubnetKey, Unreadable
from tunneld.lease.selection import Usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A remote node as the backends see it.

    Path of a lease: `lease.selection` -> **`peer`** -> `backend` -> `fib`.
    """

    key: SubnetKey
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None
    backend_type: str
    backend_data: Any
    backend_v6_data: Any
    node_id: str | None
    """None for a node without a record: a flanneld."""
    version: str | None
    encryption: RecordEncryption | Unreadable | None = None
    """What its record says of keys; None: it has none."""
    withheld: frozenset[IPNetwork] = frozenset()
    """Subnets of `key` that may not be used."""

    @property
    def ipv4(self) -> IPv4Network | None:
        """The IPv4 subnet, if there is one that may be used."""
        if not self.key.has_ipv4 or self.key.ipv4 in self.withheld:
            return None
        return self.key.ipv4

    @property
    def ipv6(self) -> IPv6Network | None:
        """The IPv6 subnet, if there is one that may be used."""
        return None if self.key.ipv6 in self.withheld else self.key.ipv6

    @property
    def subnet(self) -> IPv4Network:
        """The IPv4 subnet; 0.0.0.0/0 for an IPv6-only lease."""
        return self.key.ipv4


def join(leases: Iterable[Usable], records: Iterable[NodeRecord]) -> tuple[Peer, ...]:
    """Returns a peer for each lease, in their order, with what its node's record says."""
    by_key: dict[SubnetKey, list[NodeRecord]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record)
    peers = []
    for usable in leases:
        lease, attributes = usable.lease, usable.lease.attributes
        described = [record for record in by_key.get(lease.key, ()) if record.describes(lease)]
        # Of several, one without keys must not hide those of another.
        described.sort(key=lambda record: record.encryption is None)
        record_of_it = next(iter(described), None)
        peers.append(
            Peer(
                key=lease.key,
                public_ip=attributes.public_ip,
                public_ipv6=attributes.public_ipv6,
                backend_type=attributes.backend_type,
                backend_data=attributes.backend_data,
                backend_v6_data=attributes.backend_v6_data,
                node_id=record_of_it.node_id if record_of_it else None,
                version=record_of_it.version if record_of_it else None,
                encryption=record_of_it.encryption if record_of_it else None,
                withheld=usable.withheld,
            )
        )
    return tuple(peers)
