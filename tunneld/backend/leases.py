"""What a lease says to every backend: type, subnets, underlay addresses.

Path of a lease: `peer` -> **`backend.leases`** -> the backends. Pure.

Source: flannel `pkg/lease/lease.go` (LeaseAttrs), `pkg/backend/route_network.go` (other types).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from tunneld.backend.base import Family, Here, Unusable
from tunneld.lease.model import UNSPECIFIED, IPAddress, IPNetwork
from tunneld.peer import Peer


def public_addresses(
    here: Here, families: Collection[Family]
) -> tuple[IPv4Address, IPv6Address | None]:
    """Returns what the own lease says: only addresses of the network's families, as flannel's."""
    ipv4 = here.public_ip if 4 in families else None
    return ipv4 or UNSPECIFIED, here.public_ipv6 if 6 in families else None


def subnet_of(peer: Peer, family: Family) -> IPNetwork | None:
    """Returns the subnet of a peer; None: it has none in that family that may be used."""
    return peer.ipv4 if family == 4 else peer.ipv6


def underlay_address(peer: Peer, family: Family) -> IPAddress | None:
    """Returns the underlay address of a peer, if its lease says one."""
    address = peer.public_ip if family == 4 else peer.public_ipv6
    return None if address == UNSPECIFIED else address


def endpoint(peer: Peer, family: Family) -> IPAddress:
    """Returns the underlay address of a peer.

    Raises:
        Unusable: its lease says none in that family.
    """
    address = underlay_address(peer, family)
    if address is None:
        name = "PublicIP" if family == 4 else "PublicIPv6"
        raise Unusable(
            "no_underlay_address",
            f"lease of {peer.key} has no {name}, over which its IPv{family} subnet is reached",
        )
    return address


def require_type(peer: Peer, backend_type: str) -> None:
    """Refuses a lease of another backend, as all of flannel's but udp do.

    Raises:
        Unusable: names both types.
    """
    if peer.backend_type != backend_type:
        raise Unusable(
            "backend_type_mismatch",
            f"lease of {peer.key} has BackendType '{peer.backend_type}'; "
            f"expected '{backend_type}', the network's",
        )
