"""The lease table as the store tells it, and which of its leases may be peers.

Path of a lease: `store` -> **`lease.tracker`** -> `peer` -> `backend`.
Pure: no clock, no log. Whoever asks is told of each skipped entry once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import assert_never

from tunneld.lease.model import (
    Batch,
    ConfigPut,
    Event,
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

MALFORMED_KEY = "malformed_key"
MALFORMED_VALUE = "malformed_value"
OUTSIDE_NETWORK = "outside_network"
OVERLAPS_OWN = "overlaps_own"
OVERLAPS_PEER = "overlaps_peer"
OWN_PUBLIC_IP = "own_public_ip"
UNUSABLE_PUBLIC_IP = "unusable_public_ip"

REASONS = (
    MALFORMED_KEY,
    MALFORMED_VALUE,
    OUTSIDE_NETWORK,
    OVERLAPS_OWN,
    OVERLAPS_PEER,
    OWN_PUBLIC_IP,
    UNUSABLE_PUBLIC_IP,
)

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
class Selection:
    """What becomes of the leases of the others."""

    accepted: tuple[Lease, ...]
    """Sorted by subnet; no two of them overlap."""
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
        self._told: dict[str, tuple[int, str]] = {}
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

    def peers_of(self, own: Lease, network: IPv4Network) -> Selection:
        """Returns which leases of the others the holder of `own` may use, and why not the rest.

        Of leases that overlap each other the one created first counts: it was there when the
        other was written. The own lease is in neither list.
        """
        usable: list[Lease] = []
        skipped: list[Skipped] = []
        for lease in self._leases.values():
            if lease.key == own.key and lease.attributes.public_ip == own.attributes.public_ip:
                continue
            fault = _fault(lease, own, network)
            if fault is None:
                usable.append(lease)
            else:
                skipped.append(Skipped.lease(lease, *fault))
        accepted: list[Lease] = []
        for cluster in _clusters(usable):
            kept, lost = _first_created(cluster)
            accepted += kept
            skipped += lost
        return Selection(accepted=tuple(accepted), skipped=tuple(skipped))

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
        told = (skipped.mod_revision, skipped.reason)
        if self._told.get(skipped.name) == told:
            return False
        self._told[skipped.name] = told
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


def _fault(lease: Lease, own: Lease, network: IPv4Network) -> tuple[str, str] | None:
    """Returns the reason and the words why a lease alone cannot be used."""
    public_ip = lease.attributes.public_ip
    if not lease.subnet.subnet_of(network):
        return OUTSIDE_NETWORK, f"{lease.subnet} is not inside the network {network}"
    if (
        public_ip.is_unspecified
        or public_ip.is_loopback
        or public_ip.is_multicast
        or public_ip == _BROADCAST
    ):
        return UNUSABLE_PUBLIC_IP, f"public IP {public_ip} is no address of a single host"
    if public_ip in network:
        # A datagram to it would be routed into the overlay device it came from.
        return UNUSABLE_PUBLIC_IP, f"public IP {public_ip} lies inside the network {network}"
    if public_ip == own.attributes.public_ip:
        return OWN_PUBLIC_IP, f"public IP {public_ip} is this host's own"
    if lease.subnet.overlaps(own.subnet):
        return OVERLAPS_OWN, f"{lease.subnet} overlaps this host's {own.subnet}"
    return None


def _clusters(leases: Iterable[Lease]) -> Iterator[list[Lease]]:
    """Yields the leases sorted by subnet, those together whose address ranges touch."""
    cluster: list[Lease] = []
    end = -1
    for lease in sorted(leases, key=lambda lease: (lease.subnet, str(lease.key.ipv6))):
        if cluster and int(lease.subnet.network_address) > end:
            yield cluster
            cluster = []
            end = -1
        cluster.append(lease)
        end = max(end, int(lease.subnet.broadcast_address))
    if cluster:
        yield cluster


def _first_created(cluster: list[Lease]) -> tuple[list[Lease], list[Skipped]]:
    """Returns the leases that were there first, sorted by subnet, and the skips of the others."""
    if len(cluster) == 1:
        return cluster, []
    kept: list[Lease] = []
    lost: list[Skipped] = []
    for lease in sorted(cluster, key=lambda lease: lease.create_revision):
        earlier = next((other for other in kept if other.subnet.overlaps(lease.subnet)), None)
        if earlier is None:
            kept.append(lease)
        else:
            detail = f"{lease.subnet} overlaps {earlier.subnet}, which was leased before"
            lost.append(Skipped.lease(lease, OVERLAPS_PEER, detail))
    return sorted(kept, key=lambda lease: lease.subnet), lost
