"""What the lease room asks of a store; `store.etcd` and `store.sqlite` answer. Pure.

Path of a lease: `store` (implements **`lease.registry`**) -> `lease.tracker` -> `peer`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tunneld.lease.model import (
    Batch,
    Lease,
    LeaseAttributes,
    NodeRecord,
    Reservation,
    Snapshot,
    SubnetKey,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A time span the store grants; entries written under it vanish when it runs out."""

    grant_id: int
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One atomic write: a lease with its node record, on the condition that nobody was faster."""

    key: SubnetKey
    attributes: LeaseAttributes
    record: NodeRecord
    grant: Grant
    expected_revision: int
    """`mod_revision` of the lease key as last seen; 0: the key must not exist."""
    drop: tuple[Lease, ...] = ()
    """Leases of ours to delete in the same write, each at the `mod_revision` it was seen with."""
    reservation: Reservation | None = None
    """A reservation to write beside it: the lasting copy of a lease that had no grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """What `status` says of the store."""

    kind: str
    connected: bool
    revision: int
    endpoint: str
    """The etcd endpoint in use, or the SQLite file."""
    problem: str | None = None
    """Why it is not connected, in one line."""
    cluster: str | None = None
    """Which cluster, or which file by its content; None: it has not said yet."""


class Store(Protocol):
    """Leases, records and config under one prefix.

    Calls raise `StoreUnavailableError` (try again) or `StoreRefusedError` (credentials).
    """

    def status(self) -> StoreStatus:
        """Returns the state of the connection. Never blocks."""
        ...

    async def read(self) -> Snapshot:
        """Lists everything at one revision, after all writes that ended before the call."""
        ...

    def watch(self) -> AsyncIterator[Snapshot | Batch]:
        """Yields a snapshot, then every change after it, in order, for ever.

        Outages are bridged inside: it resumes where it stopped, and yields a new snapshot when
        that is not possible (compaction, a store restored from a backup). It never raises for
        an outage; `status` says how the connection is.
        """
        ...

    async def write_config(self, text: str) -> int:
        """Writes `<prefix>/config`, byte for byte; returns the revision."""
        ...

    async def grant(self, ttl_s: float) -> Grant:
        """Asks for a new grant."""
        ...

    async def keep_alive(self, grant: Grant) -> Grant:
        """Gives the grant its full time again.

        Raises:
            GrantLostError: the grant has run out; what was written under it is gone.
        """
        ...

    async def claim(self, claim: Claim) -> Lease:
        """Writes a lease and its record, or nothing.

        Raises:
            SubnetTakenError: the key is not at `expected_revision` any more.
        """
        ...

    async def write_record(self, record: NodeRecord, grant: Grant) -> None:
        """Writes a node record alone, whatever was there.

        Raises:
            GrantLostError: the grant has run out.
        """
        ...

    async def drop_record(self, node_id: str) -> None:
        """Deletes a node record, if it is there."""
        ...

    async def withdraw(self, lease: Lease, node_id: str) -> bool:
        """Deletes a lease, if it is still at its `mod_revision`, and the node's record.

        Returns False when somebody else has written the lease key since.
        """
        ...

    async def reserve(self, wanted: Reservation, *, lease_revision: int) -> None:
        """Writes a reservation, or nothing.

        Args:
            wanted: the subnet, and whom it is kept for.
            lease_revision: `mod_revision` of the subnet's lease as last seen; 0: there was none.

        Raises:
            SubnetTakenError: the subnet was reserved for somebody else, or its lease was written.
        """
        ...

    async def release(self, key: SubnetKey, lasting: Lease | None, grant: Grant | None) -> bool:
        """Deletes a reservation, and gives a lease without an end the end of `grant`.

        Args:
            key: the subnet.
            lasting: its lease that has no grant; None: there is none.
            grant: what is to end that lease; None without one.

        Returns False when somebody has written the lease key since.
        """
        ...

    async def remaining(self, grant_ids: Sequence[int]) -> dict[int, float]:
        """Returns the seconds left of each grant; those the store does not know are absent."""
        ...

    def reconnect(self) -> None:
        """Gives up connections that may be dead; the next call makes new ones. Never blocks."""
        ...

    async def close(self) -> None:
        """Ends all connections. Leases stay."""
        ...
