"""The lease table as the store tells it, and which of its leases may be peers.

Path of a lease: `store` -> **`lease.tracker`** -> `peer` -> `backend`.
Pure: no clock, no log. Whoever asks is told of each skipped entry once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import assert_never

from tunneld.lease.model import (
    Batch,
    ConfigPut,
    Event,
    IPAddress,
    IPNetwork,
    Lease,
    LeaseDeleted,
    LeasePut,
    Malformed,
    MalformedDeleted,
    MalformedPut,
    NodeRecord,
    RecordDeleted,
    RecordPut,
    Reservation,
    ReservationDeleted,
    ReservationPut,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ranges import is_inside, is_part, last_address, overlap

MALFORMED_KEY = "malformed_key"
MALFORMED_VALUE = "malformed_value"
OUTSIDE_NETWORK = "outside_network"
OVERLAPS_OWN = "overlaps_own"
OVERLAPS_PEER = "overlaps_peer"
OWN_PUBLIC_IP = "own_public_ip"
UNUSABLE_PUBLIC_IP = "unusable_public_ip"

_OF_A_SUBNET = (OUTSIDE_NETWORK, OVERLAPS_OWN, OVERLAPS_PEER, OWN_PUBLIC_IP, UNUSABLE_PUBLIC_IP)

REASONS = (
    MALFORMED_KEY,
    MALFORMED_VALUE,
    *_OF_A_SUBNET,
    *(f"{reason}_v6" for reason in _OF_A_SUBNET),
)
"""`_v6` says that it is the IPv6 subnet of a lease, or what it is reached by, that is at fault."""

_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry of the store that is not used."""

    name: str
    """The lease's subnet, or the full key of an entry that cannot be read."""
    reason: str
    """The counter's name: one of `REASONS`, or a backend's."""
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


class LeaseTracker:
    """Everything below the prefix, as of `revision`."""

    def __init__(self) -> None:
        self.config_text: str | None = None
        self.revision = 0
        self.history = 0
        """Grows with every listing: from one listing to the next, revisions may go backwards."""
        self._leases: dict[SubnetKey, Lease] = {}
        self._records: dict[str, NodeRecord] = {}
        self._reservations: dict[SubnetKey, Reservation] = {}
        self._malformed: dict[str, Malformed] = {}
        self._untold: dict[str, Malformed] = {}
        self._told: dict[str, dict[str, int]] = {}
        """Name to reason to the write that was told of."""
        self._skip_counts = dict.fromkeys(REASONS, 0)

    @property
    def leases(self) -> Collection[Lease]:
        """Every lease that can be read, the own one among them."""
        return self._leases.values()

    @property
    def records(self) -> Collection[NodeRecord]:
        """The records of all tunneld nodes."""
        return self._records.values()

    @property
    def reservations(self) -> Collection[Reservation]:
        """All lasting claims."""
        return self._reservations.values()

    @property
    def skip_counts(self) -> Mapping[str, int]:
        """How many writes were skipped so far, by reason; every reason is there."""
        return self._skip_counts

    @property
    def view(self) -> Snapshot:
        """Everything, as one value."""
        return Snapshot(
            revision=self.revision,
            config=self.config_text,
            leases=tuple(self._leases.values()),
            records=tuple(self._records.values()),
            reservations=tuple(self._reservations.values()),
            malformed=tuple(self._malformed.values()),
        )

    def lease(self, key: SubnetKey) -> Lease | None:
        """Returns the lease of exactly that subnet."""
        return self._leases.get(key)

    def reset(self, snapshot: Snapshot) -> None:
        """Adopts a listing, after start-up or when the store could not say what changed."""
        self.revision = snapshot.revision
        self.history += 1
        self.config_text = snapshot.config
        self._leases = {lease.key: lease for lease in snapshot.leases}
        self._records = {record.node_id: record for record in snapshot.records}
        self._reservations = {entry.key: entry for entry in snapshot.reservations}
        known, self._malformed = self._malformed, {}
        for entry in snapshot.malformed:
            self._malformed[entry.name] = entry
            if known.get(entry.name) != entry:
                self._skip_malformed(entry)
        self._untold = {name: e for name, e in self._untold.items() if name in self._malformed}
        names = {str(key) for key in self._leases}
        self._told = {name: told for name, told in self._told.items() if name in names}

    def apply(self, batch: Batch) -> None:
        """Adopts changes, in their order. Deleting what is not there changes nothing."""
        for event in batch.events:
            self._apply(event)
        self.revision = batch.revision

    def peers_of(self, own: Lease, config: NetworkConfig) -> Selection:
        """Returns which leases of the others the holder of `own` may use, and why not the rest.

        Each subnet of a lease stands for itself: a fault in one family leaves the other usable.
        Of leases that overlap each other the one created first counts: it was there when the
        other was written. The own lease is in neither list.
        """
        accepted: dict[SubnetKey, list[_Part]] = {}
        skipped: list[Skipped] = []
        usable: dict[int, list[_Part]] = {4: [], 6: []}
        for lease in self._leases.values():
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

    def newly_skipped(self, selection: Selection) -> tuple[Skipped, ...]:
        """Returns the skipped entries nobody has been told of yet, and counts them.

        To them belong, beside the selection's, the entries that cannot be read.
        """
        unreadable = tuple(
            Skipped(name=entry.name, reason=entry.reason, detail=entry.detail)
            for entry in self._untold.values()
        )
        self._untold = {}
        return unreadable + tuple(entry for entry in selection.skipped if self.note(entry))

    def note(self, skipped: Skipped) -> bool:
        """Counts a skipped lease; False when this write of it has been counted for this reason."""
        told = self._told.setdefault(skipped.name, {})
        if told.get(skipped.reason) == skipped.mod_revision:
            return False
        told[skipped.reason] = skipped.mod_revision
        self._count(skipped.reason)
        return True

    def _apply(self, event: Event) -> None:
        match event:
            case ConfigPut(text):
                self.config_text = text
            case LeasePut(lease):
                self._leases[lease.key] = lease
            case LeaseDeleted(key):
                self._drop_lease(key)
            case RecordPut(record):
                self._records[record.node_id] = record
            case RecordDeleted(node_id):
                self._records.pop(node_id, None)
            case ReservationPut(reservation):
                self._reservations[reservation.key] = reservation
            case ReservationDeleted(key):
                self._reservations.pop(key, None)
            case MalformedPut(entry, key):
                if key is not None:
                    self._drop_lease(key)
                self._malformed[entry.name] = entry
                self._skip_malformed(entry)
            case MalformedDeleted(name):
                self._malformed.pop(name, None)
                self._untold.pop(name, None)
            case _:
                assert_never(event)

    def _drop_lease(self, key: SubnetKey) -> None:
        self._leases.pop(key, None)
        self._told.pop(str(key), None)

    def _skip_malformed(self, entry: Malformed) -> None:
        self._untold[entry.name] = entry
        self._count(entry.reason)

    def _count(self, reason: str) -> None:
        self._skip_counts[reason] = self._skip_counts.get(reason, 0) + 1


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
    lost: list[Skipped] = []
    for part in sorted(cluster, key=lambda part: part.lease.create_revision):
        earlier = next((other for other in kept if overlap(other.subnet, part.subnet)), None)
        if earlier is None:
            kept.append(part)
        else:
            detail = f"{part.subnet} overlaps {earlier.subnet}, which was leased before"
            lost.append(part.skip(OVERLAPS_PEER, detail))
    return kept, lost
