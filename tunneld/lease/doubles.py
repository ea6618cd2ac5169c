"""Leases of the others that name one host: of two, one is a host's that goes unheard. Pure.

Path of a lease: beside it, `lease.tracker` -> **`lease.doubles`** -> `daemon.presence`.
"""

from __future__ import annotations

from collections.abc import Iterable

from tunneld.lease.model import IPAddress, Lease, SubnetKey

NAMED = 3
"""Addresses named in the line; more are counted."""


def doubles(leases: Iterable[Lease]) -> dict[IPAddress, tuple[SubnetKey, ...]]:
    """Returns the addresses that stand in several leases, with the subnets; reservations aside."""
    found: dict[IPAddress, list[SubnetKey]] = {}
    for lease in leases:
        holder = lease.holder
        address: IPAddress | None = holder.public_ip if holder.has_public_ip else holder.public_ipv6
        if address is not None and not lease.is_reservation:
            found.setdefault(address, []).append(lease.key)
    return {address: tuple(sorted(keys)) for address, keys in found.items() if len(keys) > 1}


def sentence(found: dict[IPAddress, tuple[SubnetKey, ...]]) -> str | None:
    """Returns them in one line; None when there are none."""
    if not found:
        return None
    addresses = sorted(found, key=int)
    told = [f"{one} ({' and '.join(map(str, found[one]))})" for one in addresses[:NAMED]]
    more = f" and {len(addresses) - NAMED} more" if len(addresses) > NAMED else ""
    return (
        f"leases with one address: {', '.join(told)}{more}; what is sent to a subnet that the host "
        "there does not hold is lost"
    )
