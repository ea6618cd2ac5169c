"""Joins a lease and its node's record into one Peer. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

from tunneld.lease.model import Lease, NodeRecord, SubnetKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A remote node as the backends see it.

    Path of a lease: `lease.tracker` -> **`peer`** -> `backend` -> `fib`.
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

    @property
    def subnet(self) -> IPv4Network:
        """The IPv4 subnet."""
        return self.key.ipv4


def join(leases: Iterable[Lease], records: Iterable[NodeRecord]) -> tuple[Peer, ...]:
    """Returns a peer for each lease, sorted by subnet.

    A record belongs to a lease when both name the same subnet and public IP: a record left
    behind by a node whose subnet somebody else took must not colour the new holder.
    """
    by_claim = {(record.key, record.public_ip): record for record in records}
    peers = []
    for lease in leases:
        attributes = lease.attributes
        record = by_claim.get((lease.key, attributes.public_ip))
        peers.append(
            Peer(
                key=lease.key,
                public_ip=attributes.public_ip,
                public_ipv6=attributes.public_ipv6,
                backend_type=attributes.backend_type,
                backend_data=attributes.backend_data,
                backend_v6_data=attributes.backend_v6_data,
                node_id=record.node_id if record else None,
                version=record.version if record else None,
            )
        )
    return tuple(sorted(peers, key=lambda peer: (peer.key.ipv4, str(peer.key.ipv6))))
