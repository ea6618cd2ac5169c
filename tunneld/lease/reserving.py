"""Whether a subnet can be reserved for a host, and what its release leaves. Pure.

A reservation outlives every lease: its host gets the subnet back after a year, and nobody else
does. It is the key `<prefix>/tunneld/reservations/<subnet>`. A lease key without a TTL, which
flannel's documentation calls a reservation, means the same, to flanneld as well.
"""

from __future__ import annotations

from tunneld.errors import LeaseError
from tunneld.lease.model import Holder, Lease, Reservation, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig


def reservation_for(key: SubnetKey, holder: Holder) -> Reservation:
    """Returns the reservation of a subnet for a host, under the name flannel knows the host by."""
    return Reservation(
        key=key,
        public_ip=holder.public_ip,
        public_ipv6=None if holder.has_public_ip else holder.public_ipv6,
    )


def lease_at(view: Snapshot, key: SubnetKey) -> Lease | None:
    """Returns the lease of exactly this subnet."""
    return next((lease for lease in view.leases if lease.key == key), None)


def lease_of(view: Snapshot, holder: Holder) -> Lease | None:
    """Returns the first lease of a host."""
    found = (lease for lease in view.leases if holder.is_host_of(lease.holder))
    return min(found, key=lambda lease: lease.key, default=None)


def check(view: Snapshot, config: NetworkConfig, wanted: Reservation) -> Lease | None:
    """Returns the lease that its host has of the subnet already, if it has.

    Raises:
        LeaseError: no host may hold the subnet, somebody else holds it, or it is reserved for
            another host, or the host has another one reserved.
    """
    if not config.admits(wanted.key):
        pools = " and ".join(str(pool) for pool in config.pools)
        raise LeaseError(
            f"cannot reserve {wanted.key}: it is no subnet of this network; expected one of {pools}"
        )
    for other in view.reservations:
        if other.key == wanted.key and not other.holder.is_host_of(wanted.holder):
            raise LeaseError(
                f"cannot reserve {wanted.key}: it is reserved for {other.holder};"
                f" give that up first: tunneld lease release {other.key}"
            )
        if other.key != wanted.key and other.holder.is_host_of(wanted.holder):
            raise LeaseError(
                f"cannot reserve {wanted.key} for {wanted.holder}: {other.key} is reserved for this"
                f" host; give that up first: tunneld lease release {other.key}"
            )
    for lease in view.leases:
        if lease.key == wanted.key and not lease.holder.is_host_of(wanted.holder):
            raise LeaseError(
                f"cannot reserve {wanted.key}: {lease.holder} holds it; reserve another subnet, or"
                " run 'tunneld leave' on that host first"
            )
    return lease_at(view, wanted.key)


def to_release(view: Snapshot, key: SubnetKey) -> Lease | None:
    """Returns the lease without an end that keeps the subnet, next to a reservation or alone.

    Raises:
        LeaseError: nothing reserves the subnet.
    """
    lease = lease_at(view, key)
    is_lasting = lease is not None and lease.is_reservation
    if not is_lasting and all(one.key != key for one in view.reservations):
        raise LeaseError(
            f"cannot release {key}: it is not reserved; 'tunneld lease list' shows what is"
        )
    return lease if is_lasting else None
