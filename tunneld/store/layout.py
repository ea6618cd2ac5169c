"""Where each entry lies below the prefix, and what a written or deleted key means.

Path of a lease: etcd or SQLite -> `store.format` and **store.layout** -> `lease.tracker`.
Pure. Both stores hand raw entries in and get the values of `lease.model` back.

    <prefix>/config                          the network config
    <prefix>/subnets/<subnet>                a lease (flannel's)
    <prefix>/tunneld/nodes/<node id>         a node record
    <prefix>/tunneld/reservations/<subnet>   a reservation
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

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
from tunneld.store import format as fmt

MAX_VALUE_BYTES = 16 * 1024
"""Of a lease, a record, a reservation. flannel's have some 200; what is larger is not kept."""

MAX_CONFIG_BYTES = 256 * 1024

MAX_SHOWN_NAME = 512
"""Characters of a key that nobody can read: etcd takes keys of 1.5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One key as a store holds it."""

    name: str
    value: bytes
    grant_id: int
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that was written, or deleted when `entry` is None."""

    name: str
    entry: Entry | None
    revision: int


class _Kind(Enum):
    CONFIG = "config"
    LEASE = "lease"
    RECORD = "record"
    RESERVATION = "reservation"
    MALFORMED = "malformed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class _Place:
    """What a key name says: its kind, and the subnet or node id it names."""

    kind: _Kind
    key: SubnetKey | None = None
    node_id: str = ""
    detail: str = ""


class Layout:
    """The keys below one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = fmt.clean_prefix(prefix)
        self.root = self.prefix if self.prefix in ("", "/") else f"{self.prefix}/"
        """What every key of ours starts with."""
        self.config = f"{self.root}config"
        # flannel lists and watches this string, without a closing slash.
        self._subnets = f"{self.root}subnets"
        self._nodes = f"{self.root}tunneld/nodes/"
        self._reservations = f"{self.root}tunneld/reservations/"

    def lease(self, key: SubnetKey) -> str:
        """Returns the key of a lease. Raises LeaseError when flannel could not read it."""
        return f"{self._subnets}/{fmt.format_lease_key(key)}"

    def record(self, node_id: str) -> str:
        """Returns the key of a node record. Raises LeaseError for an unusable node id."""
        fmt.check_node_id(node_id)
        return f"{self._nodes}{node_id}"

    def reservation(self, key: SubnetKey) -> str:
        """Returns the key of a reservation. Raises LeaseError as `lease` does."""
        return f"{self._reservations}{fmt.format_lease_key(key)}"

    def snapshot(self, entries: Iterable[Entry], revision: int) -> Snapshot:
        """Returns a listing of everything below the prefix, foreign keys left out."""
        config: str | None = None
        leases: list[Lease] = []
        records: list[NodeRecord] = []
        reservations: list[Reservation] = []
        malformed: list[Malformed] = []
        for entry in entries:
            for event in self._put(entry):
                match event:
                    case ConfigPut(text):
                        config = text
                    case LeasePut(lease):
                        leases.append(lease)
                    case RecordPut(record):
                        records.append(record)
                    case ReservationPut(reservation):
                        reservations.append(reservation)
                    case MalformedPut(entry=bad):
                        malformed.append(bad)
                    case _:
                        # A value that cannot be read also takes back the entry it replaced;
                        # a listing starts with nothing to take back.
                        continue
        return Snapshot(
            revision=revision,
            config=config,
            leases=tuple(leases),
            records=tuple(records),
            reservations=tuple(reservations),
            malformed=tuple(malformed),
        )

    def batch(self, changes: Iterable[Change], revision: int) -> Batch:
        """Returns changes as events, in their order; `revision` is that of the last one."""
        events: list[Event] = []
        for change in changes:
            events += (
                self._deleted(change.name) if change.entry is None else self._put(change.entry)
            )
        return Batch(revision=revision, events=tuple(events))

    def read_lease(self, entry: Entry) -> Lease:
        """Returns the lease of an entry known to be one. Raises ValueError as the parsers do."""
        return Lease(
            key=fmt.parse_lease_key(entry.name.removeprefix(f"{self._subnets}/")),
            attributes=fmt.decode_lease(entry.value),
            grant_id=entry.grant_id,
            create_revision=entry.create_revision,
            mod_revision=entry.mod_revision,
        )

    def _place(self, name: str) -> _Place:
        if name == self.config:
            return _Place(_Kind.CONFIG)
        if name.startswith(self._nodes):
            node_id = name.removeprefix(self._nodes)
            if fmt.is_node_id(node_id):
                return _Place(_Kind.RECORD, node_id=node_id)
            return _Place(_Kind.MALFORMED, detail="not a node id")
        if name.startswith(self._reservations):
            return _subnet_place(_Kind.RESERVATION, name.removeprefix(self._reservations))
        # Without the slash: flannel takes all that starts so for lease keys.
        if name.startswith(self._subnets):
            return _subnet_place(_Kind.LEASE, name.removeprefix(self._subnets), start="/")
        return _Place(_Kind.FOREIGN)

    def _put(self, entry: Entry) -> tuple[Event, ...]:
        place = self._place(entry.name)
        if place.kind is _Kind.MALFORMED:
            bad = Malformed(name=_shown(entry.name), reason=MALFORMED_KEY, detail=place.detail)
            return (MalformedPut(bad),)
        try:
            _check_size(place, entry)
            return self._read(place, entry)
        except ValueError as error:
            detail = str(error)
        except Exception as error:
            # Whatever others wrote, and whatever reading it raises, ends nobody's daemon.
            detail = f"cannot be read: {type(error).__name__}: {error}"
        bad = Malformed(
            name=_shown(entry.name),
            reason=MALFORMED_VALUE,
            detail=_cut(detail),
            key=place.key if place.kind is _Kind.LEASE else None,
            create_revision=entry.create_revision,
            mod_revision=entry.mod_revision,
        )
        if place.kind is _Kind.LEASE:
            return (MalformedPut(bad, place.key),)
        # `MalformedPut` takes back leases only.
        return (*self._deleted(entry.name), MalformedPut(bad))

    def _read(self, place: _Place, entry: Entry) -> tuple[Event, ...]:
        match place:
            case _Place(_Kind.CONFIG):
                return (ConfigPut(entry.value.decode(errors="replace")),)
            case _Place(_Kind.LEASE):
                return (LeasePut(self.read_lease(entry)),)
            case _Place(_Kind.RECORD, node_id=node_id):
                return (RecordPut(fmt.decode_record(node_id, entry.value)),)
            case _Place(_Kind.RESERVATION, key=SubnetKey() as key):
                return (ReservationPut(fmt.decode_reservation(key, entry.value)),)
            case _:
                return ()

    def _deleted(self, name: str) -> tuple[Event, ...]:
        match self._place(name):
            case _Place(_Kind.CONFIG):
                return (ConfigPut(None),)
            case _Place(_Kind.LEASE, key=SubnetKey() as key):
                return (LeaseDeleted(key),)
            case _Place(_Kind.RECORD, node_id=node_id):
                return (RecordDeleted(node_id),)
            case _Place(_Kind.RESERVATION, key=SubnetKey() as key):
                return (ReservationDeleted(key),)
            case _Place(_Kind.MALFORMED):
                return (MalformedDeleted(_shown(name)),)
            case _:
                return ()


def _check_size(place: _Place, entry: Entry) -> None:
    most = MAX_CONFIG_BYTES if place.kind is _Kind.CONFIG else MAX_VALUE_BYTES
    if place.kind is not _Kind.FOREIGN and len(entry.value) > most:
        raise ValueError(f"its value has {len(entry.value)} bytes; at most {most} are read")


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_SHOWN_NAME else f"{detail[:MAX_SHOWN_NAME]}…"


def _shown(name: str) -> str:
    """Returns a name to log and count an entry by; long ones are cut, and still differ."""
    if len(name) <= MAX_SHOWN_NAME:
        return name
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()
    return f"{name[:MAX_SHOWN_NAME]}… ({len(name)} characters, SHA-256 {digest[:16]})"


def _subnet_place(kind: _Kind, text: str, start: str = "") -> _Place:
    if not text.startswith(start):
        return _Place(_Kind.MALFORMED, detail="flannel takes it for a lease key")
    try:
        return _Place(kind, key=fmt.parse_lease_key(text.removeprefix(start)))
    except ValueError as error:
        return _Place(_Kind.MALFORMED, detail=str(error))
