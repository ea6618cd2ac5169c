"""Which leases of the others this host may use, and why not the rest. Pure.

Path of a lease: `lease.tracker` -> **`lease.selection`** -> `peer` -> `backend`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from tunneld.lease.model import IPAddress, IPNetwork, Lease, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ranges import is_inside, is_part, last_address, overlap

OUTSIDE_NETWORK = "outside_network"
OVERLAPS_OWN = "overlaps_own"
OVERLAPS_PEER = "overlaps_peer"
OWN_PUBLIC_IP = "own_public_ip"
UNUSABLE_PUBLIC_IP = "unusable_public_ip"

_OF_A_SUBNET = (OUTSIDE_NETWORK, OVERLAPS_OWN, OVERLAPS_PEER, OWN_PUBLIC_IP, UNUSABLE_PUBLIC_IP)

FAULTS = (*_OF_A_SUBNET, *(f"{reason}_v6" for reason in _OF_A_SUBNET))
"""`_v6` says that it is the IPv6 subnet of a lease, or what it is reached by, that is at fault."""

_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry of the store that is not used."""

    name: str
    """The lease's subnet, or the full key of an entry that cannot be read."""
    reason: str
    """The counter's name: one of `FAULTS`, an unreadable entry's, or a backend's."""
    detail: str
    """Why, in words, for the log."""
    mod_revision: int = 0
    """The write that is skipped; another write of the same entry is another skip."""

    @classmethod
    def lease(cls, lease: Lease, reason: str, detail: str) -> Skipped:
        """Returns the skip of a lease."""
        return cls(
            name=str(lease.key), reason=reason, detail=detail, mod_revision=lease.mod_revision
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """A lease of another host, of which at least one subnet may be used."""

    lease: Lease
    withheld: frozenset[IPNetwork] = frozenset()
    """Subnets of it that may not."""

    @classmethod
    def whole(cls, lease: Lease) -> Usable:
        """Returns a lease with all of its subnets."""
        return cls(lease=lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What becomes of the leases of the others."""

    accepted: tuple[Usable, ...]
    """Sorted by key; no two usable subnets overlap."""
    skipped: tuple[Skipped, ...]


def select(leases: Iterable[Lease], own: Lease, config: NetworkConfig) -> Selection:
    """Returns which leases of the others the holder of `own` may use, and why not the rest.

    Each subnet of a lease stands for itself: a fault in one family leaves the other usable.
    Of leases that overlap each other the one created first counts: it was there when the
    other was written. The own lease is in neither list.
    """
    accepted: dict[SubnetKey, list[_Part]] = {}
    skipped: list[Skipped] = []
    usable: dict[int, list[_Part]] = {4: [], 6: []}
    for lease in leases:
        if lease.key == own.key and lease.holder == own.holder:
            continue
        parts = tuple(_parts(lease, config))
        if not parts:
            detail = f"{lease.key} is of a family that the network does not have"
            skipped.append(Skipped.lease(lease, OUTSIDE_NETWORK, detail))
        for part in parts:
            fault = _fault(part, own)
            if fault is None:
                usable[part.subnet.version].append(part)
            else:
                skipped.append(part.skip(*fault))
    for family in usable.values():
        for cluster in _clusters(family):
            kept, lost = _first_created(cluster)
            skipped += lost
            for part in kept:
                accepted.setdefault(part.lease.key, []).append(part)
    return Selection(
        accepted=tuple(_usable(accepted[key]) for key in sorted(accepted)),
        skipped=tuple(skipped),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One subnet of a lease, with what it is reached by and the network it must be in."""

    lease: Lease
    subnet: IPNetwork
    endpoint: IPAddress | None
    network: IPNetwork

    def skip(self, reason: str, detail: str) -> Skipped:
        suffix = "_v6" if self.subnet.version == 6 else ""
        return Skipped.lease(self.lease, reason + suffix, detail)


def _parts(lease: Lease, config: NetworkConfig) -> Iterator[_Part]:
    """Yields the subnets of a lease in the families that the network has."""
    attributes = lease.attributes
    if config.ipv4 is not None and lease.key.has_ipv4:
        yield _Part(lease, lease.key.ipv4, attributes.public_ip, config.ipv4.network)
    if config.ipv6 is not None and lease.key.ipv6 is not None:
        yield _Part(lease, lease.key.ipv6, attributes.public_ipv6, config.ipv6.network)


def _usable(parts: list[_Part]) -> Usable:
    """Returns the lease of parts that may all be used."""
    lease = parts[0].lease
    usable = {part.subnet for part in parts}
    withheld = [subnet for subnet in lease.key.subnets if subnet not in usable]
    return Usable(lease=lease, withheld=frozenset(withheld)) if withheld else Usable.whole(lease)


def _fault(part: _Part, own: Lease) -> tuple[str, str] | None:
    """Returns the reason and the words why a subnet alone cannot be used."""
    subnet, endpoint, network = part.subnet, part.endpoint, part.network
    if not is_part(subnet, network):
        return OUTSIDE_NETWORK, f"{subnet} is not inside the network {network}"
    # Whether one without an endpoint is of use, its backend knows.
    if endpoint is not None:
        if not _is_of_one_host(endpoint):
            return UNUSABLE_PUBLIC_IP, f"public IP {endpoint} is no address of a single host"
        if is_inside(endpoint, network):
            # A datagram to it would be routed into the overlay device it came from.
            return UNUSABLE_PUBLIC_IP, f"public IP {endpoint} lies inside the network {network}"
        if endpoint in (own.attributes.public_ip, own.attributes.public_ipv6):
            return OWN_PUBLIC_IP, f"public IP {endpoint} is this host's own"
    held = next((held for held in own.key.subnets if overlap(subnet, held)), None)
    return None if held is None else (OVERLAPS_OWN, f"{subnet} overlaps this host's {held}")


def _is_of_one_host(address: IPAddress) -> bool:
    return not (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address == _BROADCAST
        # Without an interface, which no lease names, it says nothing.
        or (address.version == 6 and address.is_link_local)
    )


def _clusters(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Yields the parts, all of one family, sorted; those together whose address ranges touch."""
    cluster: list[_Part] = []
    end = -1
    for part in sorted(parts, key=_order):
        if cluster and int(part.subnet.network_address) > end:
            yield cluster
            cluster = []
            end = -1
        cluster.append(part)
        end = max(end, last_address(part.subnet))
    if cluster:
        yield cluster


def _order(part: _Part) -> tuple[int, int]:
    return int(part.subnet.network_address), part.subnet.prefixlen


def _first_created(cluster: list[_Part]) -> tuple[list[_Part], list[Skipped]]:
    """Returns the parts that were there first, and the skips of the others."""
    if len(cluster) == 1:
        return cluster, []
    kept: list[_Part] = []
    begins: list[int] = []
    lost: list[Skipped] = []
    for part in sorted(cluster, key=lambda part: part.lease.create_revision):
        # What is kept is disjoint: of what begins before this one's end, the last ends last.
        at = bisect_right(begins, last_address(part.subnet))
        if at and overlap(kept[at - 1].subnet, part.subnet):
            detail = f"{part.subnet} overlaps {kept[at - 1].subnet}, which was leased before"
            lost.append(part.skip(OVERLAPS_PEER, detail))
        else:
            begins.insert(at, int(part.subnet.network_address))
            kept.insert(at, part)
    return kept, lost
