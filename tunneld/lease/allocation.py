"""Which subnets a node may try to lease, best first.

Path of a lease: the lease table -> **`lease.allocation`** -> `lease.keeper`.
Pure: chance comes in as an argument, and nothing here knows whether a write will succeed.

Source: flannel `pkg/subnet/etcd/local_manager.go` (reuse by public IP, the old subnet.env, one
of the first 100 free subnets by chance); the node's own record and reservations are tunneld's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from typing import Any, Literal, Protocol

from tunneld.errors import SubnetExhaustedError
from tunneld.lease.model import UNSPECIFIED, Lease, Reservation, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig

FREE_CHOICES = 100
"""How many free subnets chance chooses from."""

Origin = Literal["owned", "lost", "public_ip", "reservation", "subnet_env", "free"]


class Shuffler(Protocol):
    """The part of `random.Random` that is needed."""

    def shuffle(self, x: list[Any]) -> None:
        """Brings `x` into an order by chance."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A subnet to claim."""

    key: SubnetKey
    expected_revision: int
    """`mod_revision` the key has in the table; 0: nobody holds it."""
    origin: Origin
    """`owned` and `public_ip`: a lease of ours. `lost`: ours until it was deleted or ended."""
    drop: tuple[Lease, ...] = ()
    """Leases of ours that do not fit the network config; they go in the same write."""
    reservation: Reservation | None = None
    """A lasting claim to write beside the lease, which itself ends with its grant."""


def candidates(
    view: Snapshot,
    *,
    node_id: str,
    public_ip: IPv4Address,
    config: NetworkConfig,
    rng: Shuffler,
    previous_subnet: IPv4Network | None = None,
    held: Lease | None = None,
    blocked: Collection[SubnetKey] = (),
) -> Iterator[Candidate]:
    """Yields the IPv4 subnets to try, each at most once.

    Order: the lease this node owns; the subnet it lost; a lease with its public IP; its
    reservation; the subnet of the old subnet.env; one of the first free ones by chance.

    `held` is the lease this process wrote last: it knows better than the node's record, which
    somebody else with a copy of the node id may have written. `blocked` are subnets whose
    claims failed though the table says they are free: their entries cannot be read.

    Raises:
        SubnetExhaustedError: after the other candidates, when no subnet is free.
    """
    own = _own_leases(view, node_id=node_id, public_ip=public_ip, held=held)
    drop = tuple(lease for _, lease in own if not config.admits(lease.key))
    gone = {lease.key for lease in drop}
    occupied = _Ranges(
        [lease.subnet for lease in view.leases if lease.key not in gone]
        + [other.key.ipv4 for other in view.reservations if other.public_ip != public_ip]
        + [key.ipv4 for key in blocked]
    )
    tried = set(blocked)

    fitting = [(origin, lease) for origin, lease in own if config.admits(lease.key)]
    unheld: list[tuple[Origin, SubnetKey]] = [
        *(("lost", key) for key in _lost(view, node_id=node_id, held=held)),
        *(("reservation", key) for key in _reserved(view, public_ip)),
    ]
    if previous_subnet is not None:
        unheld.append(("subnet_env", SubnetKey(previous_subnet)))

    def existing(wanted: Origin) -> Iterator[Candidate]:
        for origin, lease in fitting:
            if origin == wanted and lease.key not in tried:
                tried.add(lease.key)
                yield Candidate(
                    key=lease.key,
                    expected_revision=lease.mod_revision,
                    origin=origin,
                    drop=drop,
                    reservation=_lasting(view, lease, public_ip),
                )

    def vacant(*wanted: Origin) -> Iterator[Candidate]:
        for origin, key in unheld:
            is_vacant = config.admits(key) and key.ipv4 not in occupied
            if origin in wanted and key not in tried and is_vacant:
                tried.add(key)
                yield Candidate(key=key, expected_revision=0, origin=origin, drop=drop)

    yield from existing("owned")
    yield from vacant("lost")
    yield from existing("public_ip")
    yield from vacant("reservation", "subnet_env")

    free = [SubnetKey(subnet) for subnet in islice(_free(config, occupied), FREE_CHOICES)]
    if not free:
        raise SubnetExhaustedError(
            f"no free /{config.subnet_len} in {config.network}: all {config.subnet_count} subnets "
            f"from {config.subnet_min} to {config.subnet_max} are taken by {len(view.leases)} "
            f"leases and {len(view.reservations)} reservations; widen Network, raise SubnetLen, "
            "or wait for a lease to end"
        )
    rng.shuffle(free)
    for key in free:
        if key not in tried:
            yield Candidate(key=key, expected_revision=0, origin="free", drop=drop)


def _own_leases(
    view: Snapshot, *, node_id: str, public_ip: IPv4Address, held: Lease | None
) -> list[tuple[Origin, Lease]]:
    """Returns the leases that are this node's, with what says so."""
    record = next((record for record in view.records if record.node_id == node_id), None)
    of_others = {
        (record.key, record.public_ip) for record in view.records if record.node_id != node_id
    }
    own: list[tuple[Origin, Lease]] = []
    for lease in sorted(view.leases, key=lambda lease: (lease.subnet, str(lease.key.ipv6))):
        claim = (lease.key, lease.attributes.public_ip)
        if held is not None:
            is_owned = claim == (held.key, held.attributes.public_ip) and (
                lease.grant_id == held.grant_id
            )
        else:
            is_owned = record is not None and claim == (record.key, record.public_ip)
        if is_owned:
            own.append(("owned", lease))
        elif (
            public_ip != UNSPECIFIED
            and lease.attributes.public_ip == public_ip
            and claim not in of_others
        ):
            own.append(("public_ip", lease))
    return own


def _lost(view: Snapshot, *, node_id: str, held: Lease | None) -> Iterator[SubnetKey]:
    if held is not None:
        yield held.key
        return
    for record in view.records:
        if record.node_id == node_id:
            yield record.key


def _reserved(view: Snapshot, public_ip: IPv4Address) -> Iterator[SubnetKey]:
    if public_ip != UNSPECIFIED:
        for reservation in sorted(view.reservations, key=lambda entry: entry.key.ipv4):
            if reservation.public_ip == public_ip:
                yield reservation.key


def _lasting(view: Snapshot, lease: Lease, public_ip: IPv4Address) -> Reservation | None:
    """Returns the reservation a lease of ours needs, unless it is there already."""
    wanted = Reservation(key=lease.key, public_ip=public_ip)
    if wanted in view.reservations:
        return None
    former = Reservation(key=lease.key, public_ip=lease.attributes.public_ip)
    return wanted if lease.is_reservation or former in view.reservations else None


class _Ranges:
    """Address ranges, sorted and joined where they overlap."""

    def __init__(self, networks: Iterable[IPv4Network]) -> None:
        ranges = sorted(
            (int(network.network_address), int(network.broadcast_address)) for network in networks
        )
        self.first: list[int] = []
        self.last: list[int] = []
        for first, last in ranges:
            if self.last and first <= self.last[-1]:
                self.last[-1] = max(self.last[-1], last)
            else:
                self.first.append(first)
                self.last.append(last)

    def __contains__(self, network: IPv4Network) -> bool:
        """Returns whether any address of `network` is in a range."""
        at = bisect_right(self.first, int(network.broadcast_address)) - 1
        return at >= 0 and self.last[at] >= int(network.network_address)


def _free(config: NetworkConfig, occupied: _Ranges) -> Iterator[IPv4Network]:
    """Yields the free subnets from SubnetMin to SubnetMax, jumping over what is occupied."""
    size = 1 << (32 - config.subnet_len)
    position, end = int(config.subnet_min), int(config.subnet_max)
    for first, last in zip(occupied.first, occupied.last, strict=True):
        while position <= end and position + size <= first:
            yield IPv4Network((position, config.subnet_len))
            position += size
        if last >= position:
            position = (last // size + 1) * size
    while position <= end:
        yield IPv4Network((position, config.subnet_len))
        position += size
