"""The lease table as the store tells it.

Path of a lease: `store` -> **`lease.tracker`** -> `lease.selection` -> `peer`.
Pure: no clock, no log. Whoever asks is told of each skipped entry once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import assert_never

from tunneld.lease.model import (
    MALFORMED_KEY,
    MALFORMED_VALUE,
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
from tunneld.lease.network import NetworkConfig
from tunneld.lease.selection import FAULTS, Selection, Skipped, select

REASONS = (MALFORMED_KEY, MALFORMED_VALUE, *FAULTS)
"""Why an entry of the store may be skipped, whatever the backend."""


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

    def record(self, node_id: str) -> NodeRecord | None:
        """Returns the record under a node id."""
        return self._records.get(node_id)

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
        """Returns which leases of the others the holder of `own` may use, and why not the rest."""
        return select(self._leases.values(), own, config)

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
