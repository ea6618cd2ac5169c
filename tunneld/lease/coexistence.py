"""Whether a network can be shared with the flannelds that are in it.

Path of a lease: `lease.tracker` -> **`lease.coexistence`** -> `daemon.membership`. Pure.

In a network without IPv4 every host publishes PublicIP 0.0.0.0, by which a flanneld that starts
takes the first lease it finds for its own and writes over it.

Source: flannel `pkg/subnet/etcd/local_manager.go` (findLeaseByIP).
"""

from __future__ import annotations

from collections.abc import Iterable

from tunneld.lease.model import Holder, Lease, NodeRecord
from tunneld.lease.network import NetworkConfig


def flannelds(
    leases: Iterable[Lease], records: Iterable[NodeRecord], own: Holder
) -> tuple[Lease, ...]:
    """Returns the leases of other hosts that no node record describes.

    A key without a grant is not among them: somebody has reserved it by hand.
    """
    described = {(record.key, record.holder) for record in records}
    return tuple(
        lease
        for lease in sorted(leases, key=lambda lease: lease.key)
        if not lease.is_reservation
        and lease.holder != own
        and (lease.key, lease.holder) not in described
    )


def conflict(
    config: NetworkConfig, leases: Iterable[Lease], records: Iterable[NodeRecord], own: Holder
) -> str | None:
    """Returns why this network cannot be shared, in one line; None: it can."""
    if config.enable_ipv4:
        return None
    found = flannelds(leases, records, own)
    if not found:
        return None
    names = ", ".join(f"{lease.key} of {lease.holder}" for lease in found)
    return (
        f"the network has IPv6 only, and a flanneld holds {names}: hosts without IPv4 all have "
        "PublicIP 0.0.0.0, by which flanneld takes other hosts' leases for its own; stop flanneld "
        "there and delete its lease, or give the network IPv4 too (EnableIPv4)"
    )
