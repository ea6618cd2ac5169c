"""Which subnet this host had before, and who has it where it has not any more. Pure.

Path of a lease: `lease.kinship` -> **`lease.former`** -> `lease.acquisition`.
"""

from __future__ import annotations

from tunneld.lease.model import IPNetwork, Lease, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ranges import overlap


def former_key(
    view: Snapshot,
    node_id: str,
    *,
    held: Lease | None,
    recalled: Lease | None,
    previous: SubnetKey | None,
) -> SubnetKey | None:
    """Returns what it had, as who knows best says.

    That is this process (`held`), the record of the node in the store, what an earlier process
    wrote down (`recalled`; a full disk takes nothing), and the old subnet.env (`previous`).
    """
    if held is not None:
        return held.key
    for record in view.records:
        if record.node_id == node_id and not record.is_question:
            return record.key
    return previous if recalled is None else recalled.key


def missed(
    former: SubnetKey | None, lease: Lease, view: Snapshot, config: NetworkConfig
) -> str | None:
    """Returns which subnets of `former` are not in `lease`, and who has them, in one line.

    None: none is missed. What the network does not give any more is not missed either.
    """
    gone = [
        subnet
        for subnet in (former.subnets if former is not None else ())
        if subnet not in lease.key.subnets and _is_given(subnet, config)
    ]
    if not gone:
        return None
    told = f"former subnet {former}"
    rivals = [
        str(other.holder)
        for other in view.leases
        if other.holder != lease.holder
        and any(overlap(mine, theirs) for mine in gone for theirs in other.key.subnets)
    ]
    if rivals:
        return f"{told}, which {' and '.join(rivals[:3])} has leased"
    if any(entry.key == former for entry in view.malformed):
        return f"{told}, where an entry stands that cannot be read"
    return told


def _is_given(subnet: IPNetwork, config: NetworkConfig) -> bool:
    return any(
        pool.network.version == subnet.version and pool.admits(subnet) for pool in config.pools
    )
