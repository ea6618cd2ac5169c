"""The writes of the lease room as transactions: conditions, then puts and deletes, or nothing.

Path of a lease: `lease.keeper` -> **store.transaction** -> etcd or SQLite.
Pure. Both stores execute a Transaction; neither decides what one holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunneld.errors import GrantLostError, LeaseError, SubnetTakenError
from tunneld.lease.model import Lease, NodeRecord, Reservation, SubnetKey
from tunneld.lease.registry import Claim, Grant
from tunneld.store import format as fmt
from tunneld.store.layout import Entry, Layout


@dataclass(frozen=True, slots=True)
class Put:
    """A key to write. `grant_id` 0: it stays until it is deleted."""

    name: str
    value: bytes
    grant_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """All puts and deletes, when every key is at its expected revision; otherwise nothing."""

    expected: tuple[tuple[str, int], ...] = ()
    """Key and `mod_revision`; revision 0: the key must not exist."""
    puts: tuple[Put, ...] = ()
    deletes: tuple[str, ...] = ()
    read: str | None = None
    """A key to read in the same transaction, after the writes, whether they happened or not."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction."""

    is_done: bool
    """False: a condition did not hold."""
    revision: int
    entry: Entry | None
    """What `Transaction.read` holds now."""


def claim(layout: Layout, wanted: Claim) -> Transaction:
    """Returns the transaction that writes a lease and its record.

    Raises:
        LeaseError: a key could not be read back by flannel, or the record is not the lease's.
    """
    if wanted.record.key != wanted.key:
        raise LeaseError(
            f"record of node {wanted.record.node_id} names {wanted.record.key}, "
            f"expected the claimed subnet {wanted.key}"
        )
    name = layout.lease(wanted.key)
    grant_id = wanted.grant.grant_id
    puts = [
        Put(name, fmt.encode_lease(wanted.attributes), grant_id),
        Put(layout.record(wanted.record.node_id), fmt.encode_record(wanted.record), grant_id),
    ]
    if wanted.reservation is not None:
        puts.append(
            Put(
                layout.reservation(wanted.reservation.key),
                fmt.encode_reservation(wanted.reservation),
            )
        )
    # A lease that is overwritten in place is not also dropped: a store refuses both at once.
    dropped = {
        layout.lease(lease.key): lease.mod_revision
        for lease in wanted.drop
        if lease.key != wanted.key
    }
    return Transaction(
        expected=((name, wanted.expected_revision), *dropped.items()),
        puts=tuple(puts),
        deletes=tuple(dropped),
        read=name,
    )


def claimed(layout: Layout, wanted: Claim, outcome: Outcome) -> Lease:
    """Returns the lease a claim left in the store.

    Raises:
        SubnetTakenError: somebody else holds the key, or a lease to drop was written.
        GrantLostError: the grant ran out while the claim was under way.
    """
    entry = outcome.entry
    if entry is not None:
        is_ours = entry.grant_id == wanted.grant.grant_id
        # A claim whose answer was lost is sent again, and then finds itself in its way.
        is_written = is_ours and entry.value == fmt.encode_lease(wanted.attributes)
        if outcome.is_done or is_written:
            return layout.read_lease(entry)
    if outcome.is_done:
        raise GrantLostError(f"grant of {wanted.key} ran out while it was claimed")
    raise SubnetTakenError(
        f"lease of {wanted.key} is not at revision {wanted.expected_revision} any more: "
        "another node was faster"
    )


def record(layout: Layout, wanted: NodeRecord, grant: Grant) -> Transaction:
    """Returns the transaction that writes a node record.

    Raises:
        LeaseError: its node id or subnet cannot be in a key.
    """
    name = layout.record(wanted.node_id)
    return Transaction(puts=(Put(name, fmt.encode_record(wanted), grant.grant_id),))


def no_record(layout: Layout, node_id: str) -> Transaction:
    """Returns the transaction that deletes a node record. Raises LeaseError as `record` does."""
    return Transaction(deletes=(layout.record(node_id),))


def withdraw(layout: Layout, lease: Lease, node_id: str) -> Transaction:
    """Returns the transaction that deletes a lease and its node's record."""
    name = layout.lease(lease.key)
    return Transaction(
        expected=((name, lease.mod_revision),),
        deletes=(name, layout.record(node_id)),
        read=name,
    )


def withdrawn(outcome: Outcome) -> bool:
    """True when the lease is gone, be it by a withdrawal whose answer was lost."""
    return outcome.entry is None


def reserve(layout: Layout, wanted: Reservation, lease_revision: int) -> Transaction:
    """Returns the transaction that writes a reservation. Raises LeaseError as `claim` does."""
    name = layout.reservation(wanted.key)
    return Transaction(
        expected=((name, 0), (layout.lease(wanted.key), lease_revision)),
        puts=(Put(name, fmt.encode_reservation(wanted)),),
        read=name,
    )


def reserved(wanted: Reservation, outcome: Outcome) -> None:
    """Raises SubnetTakenError unless the reservation stands, be it from an earlier try."""
    entry = outcome.entry
    if entry is None or entry.value != fmt.encode_reservation(wanted):
        raise SubnetTakenError(
            f"cannot reserve {wanted.key}: somebody wrote its lease or its reservation in the same"
            " moment; look at 'tunneld lease list' and try again"
        )


def release(
    layout: Layout, key: SubnetKey, lasting: Lease | None, grant: Grant | None
) -> Transaction:
    """Returns the transaction that deletes a reservation and lets a lasting lease end."""
    deletes = (layout.reservation(key),)
    if lasting is None or grant is None:
        return Transaction(deletes=deletes)
    name = layout.lease(key)
    return Transaction(
        expected=((name, lasting.mod_revision),),
        puts=(Put(name, fmt.encode_lease(lasting.attributes), grant.grant_id),),
        deletes=deletes,
        read=name,
    )


def released(outcome: Outcome, grant: Grant | None) -> bool:
    """True when nothing keeps the subnet any more, be it by a release whose answer was lost."""
    if outcome.is_done:
        return True
    return (
        grant is not None
        and outcome.entry is not None
        and (outcome.entry.grant_id == grant.grant_id)
    )
