"""Which leases of the table are this host's, and of which somebody must be asked first. Pure.

Path of a lease: the lease table -> **`lease.kinship`** -> `lease.allocation`, `lease.roll_call`.

A node id may have been copied with a disk, an address may have moved to another machine, and a
state directory may be lost: none of them alone says whose a lease is. Where node id, address and
machine agree it is ours; where they do not, it is ours only if nobody answers for it. The lease of
a node id on another machine and another address is never ours.

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

KinOrigin = Literal["owned", "public_ip", "subnet_env"]


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
    """What says so: the record of our node id, the address, or the old subnet.env."""
    doubt: Literal["none", "live", "copy"]
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
) -> Iterator[Kin]:
    """Yields the leases that may be this host's, sorted by key.

    `held` is the lease this process wrote last: it knows better than the node's record, which
    a host with a copy of the node id may have written. `previous` are the subnets of the old
    subnet.env.
    """
    records: dict[tuple[SubnetKey, Holder], list[NodeRecord]] = {}
    for record in view.records:
        if not record.is_question:
            records.setdefault((record.key, record.holder), []).append(record)
    for lease in sorted(view.leases, key=lambda lease: lease.key):
        said = records.get((lease.key, lease.holder), [])
        found = _kin(lease, said, me, held, previous)
        if found is not None:
            yield found


def _kin(
    lease: Lease,
    said: list[NodeRecord],
    me: Identity,
    held: Lease | None,
    previous: SubnetKey | None,
) -> Kin | None:
    own = next((record for record in said if record.node_id == me.node_id), None)
    is_same_address = me.holder.is_host_of(lease.holder)
    if held is not None:
        is_held = (lease.key, lease.holder) == (held.key, held.holder)
        if is_held and lease.grant_id == held.grant_id:
            return Kin(lease=lease, origin="owned", doubt="none")
    elif own is not None:
        is_other_machine = are_apart(machine_of(own), me.machine)
        # A network that gets another family, or loses one, leaves one of both addresses.
        is_same_address |= lease.holder.public_ipv6 in {me.holder.public_ipv6} - {None}
        if is_same_address and not is_other_machine:
            return Kin(lease=lease, origin="owned", doubt="none")
        is_copy = is_other_machine and not is_same_address
        return Kin(lease=lease, origin="owned", doubt="copy" if is_copy else "live")
    if is_same_address:
        is_described = any(record.node_id != me.node_id for record in said)
        return Kin(lease=lease, origin="public_ip", doubt="live" if is_described else "none")
    # Lost with a new address: the file tells the subnet, the record the machine.
    is_of_this_machine = me.machine is not None and me.machine in map(machine_of, said)
    if lease.key == previous and is_of_this_machine:
        return Kin(lease=lease, origin="subnet_env", doubt="live")
    return None


def ours(
    view: Snapshot,
    me: Identity,
    *,
    held: Lease | None = None,
    previous: SubnetKey | None = None,
    unanswered: Collection[SubnetKey] = (),
) -> list[Kin]:
    """Returns the leases that are this host's, when nobody has answered for `unanswered`."""
    return [
        found
        for found in kin(view, me, held=held, previous=previous)
        if found.doubt == "none" or (found.doubt == "live" and found.lease.key in unanswered)
    ]


def are_apart(one: str | None, other: str | None) -> bool:
    """Returns whether these are two machines for sure."""
    return one is not None and other is not None and one != other
