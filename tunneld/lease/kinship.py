"""Which leases of the table are this host's, and of which somebody must be asked first. Pure.

Path of a lease: the lease table -> **`lease.kinship`** -> `lease.allocation`, `lease.roll_call`.

A node id may have been copied with a disk, an address may have moved to another machine, and a
state directory may be lost: none of them alone says whose a lease is. Where node id, address and
machine agree it is ours; where they do not, it is ours only if nobody answers for it. The lease of
a node id on another machine and another address is not ours, but in the subnet held now.

Source: flannel `pkg/subnet/etcd/local_manager.go` (a lease belongs to whoever has its PublicIP);
node id, machine and the question are tunneld's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from tunneld.lease.model import Holder, Lease, NodeRecord, Snapshot, SubnetKey

MACHINE = "Machine"
"""Member of a node record: a hash of the machine's id, the same at every boot."""

Doubt = Literal["none", "live", "copy"]

KinOrigin = Literal["owned", "public_ip", "past", "subnet_env"]

Written = tuple[SubnetKey, Holder, int]
"""What tells a write of a lease from those of others: subnet, address, and the id of its grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells this host from others; none of it for sure."""

    node_id: str
    holder: Holder
    machine: str | None = None
    """As in `MACHINE`; None: the machine has no id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin:
    """A lease that may be this host's."""

    lease: Lease
    origin: KinOrigin
    """What says so: the record of our node id or that it is the subnet held, the address, that
    this process once wrote it in another subnet, or the old subnet.env."""
    doubt: Doubt
    """`none`: it is ours. `live`: unless somebody lives who holds it. `copy`: the node id is, but
    the machine and the address are others."""


def machine_of(record: NodeRecord) -> str | None:
    """Returns what a record says of its node's machine; older versions say nothing."""
    found = record.extra.get(MACHINE)
    return found if isinstance(found, str) and found else None


def kin(
    view: Snapshot,
    me: Identity,
    *,
    held: Lease | None = None,
    previous: SubnetKey | None = None,
    past: Collection[Written] = (),
) -> Iterator[Kin]:
    """Yields the leases that may be this host's, sorted by key.

    `held` is the lease this process wrote last: it knows better than the node's record, which
    a host with a copy of the node id may have written. `previous` are the subnets of the old
    subnet.env. `past` is all that this process ever wrote: a restored store brings it back, under
    former addresses. What an earlier process of this host wrote is asked for, like all that a
    copied state directory would know too.
    """
    records: dict[tuple[SubnetKey, Holder], list[NodeRecord]] = {}
    for record in view.records:
        if not record.is_question:
            records.setdefault((record.key, record.holder), []).append(record)
    for lease in sorted(view.leases, key=lambda lease: lease.key):
        said = records.get((lease.key, lease.holder), [])
        written = (lease.key, lease.holder, lease.grant_id)
        found = _kin(lease, said, me, held, previous, is_past=written in past)
        if found is not None:
            yield found


def _kin(
    lease: Lease,
    said: list[NodeRecord],
    me: Identity,
    held: Lease | None,
    previous: SubnetKey | None,
    *,
    is_past: bool,
) -> Kin | None:
    is_in_place = held is None or lease.key == held.key
    if is_past:
        return Kin(lease=lease, origin="owned" if is_in_place else "past", doubt="none")
    own = next((record for record in said if record.node_id == me.node_id), None)
    doubt = _doubt(lease, own, me, held)
    if doubt is not None:
        return Kin(lease=lease, origin="owned", doubt=doubt)
    is_same_address = me.holder.is_host_of(lease.holder)
    if is_same_address:
        is_described = any(record.node_id != me.node_id for record in said)
        return Kin(lease=lease, origin="public_ip", doubt="live" if is_described else "none")
    # Lost with a new address: the file tells the subnet, the record the machine.
    is_of_this_machine = me.machine is not None and me.machine in map(machine_of, said)
    is_former = lease.key == previous or (held is not None and is_in_place)
    if is_former and is_of_this_machine:
        return Kin(lease=lease, origin="subnet_env", doubt="live")
    return None


def _doubt(lease: Lease, own: NodeRecord | None, me: Identity, held: Lease | None) -> Doubt | None:
    """Returns the doubt of a lease that is owned, and None of one that is not.

    `own` is the record of our node id, where it describes this lease.
    """
    is_same_address = me.holder.is_host_of(lease.holder)
    if held is not None:
        if lease.key != held.key:
            return None
        if (lease.holder, lease.grant_id) == (held.holder, held.grant_id):
            return "none"
        # Of an earlier process of this host, before it moved; or of one with a copy.
        return "live" if own is not None and not is_same_address else None
    if own is None:
        return None
    is_other_machine = are_apart(machine_of(own), me.machine)
    # A network that gets another family, or loses one, leaves one of both addresses.
    is_same_address |= lease.holder.public_ipv6 in {me.holder.public_ipv6} - {None}
    if is_same_address and not is_other_machine:
        return "none"
    return "live" if is_same_address or not is_other_machine else "copy"


def ours(
    view: Snapshot,
    me: Identity,
    *,
    held: Lease | None = None,
    previous: SubnetKey | None = None,
    past: Collection[Written] = (),
    unanswered: Collection[SubnetKey] = (),
) -> list[Kin]:
    """Returns the leases that are this host's, when nobody has answered for `unanswered`."""
    return [
        found
        for found in kin(view, me, held=held, previous=previous, past=past)
        if found.doubt == "none" or (found.doubt == "live" and found.lease.key in unanswered)
    ]


def are_apart(one: str | None, other: str | None) -> bool:
    """Returns whether these are two machines for sure."""
    return one is not None and other is not None and one != other
