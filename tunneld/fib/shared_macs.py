"""Finds leases that publish one and the same VTEP address.

Path of a lease: `backend` -> **`fib.shared_macs`** -> `fib.compose`. Pure.

In user space a peer is found by its subnet, and such leases do not disturb each other. A kernel
FDB has one host for an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tunneld.backend.base import Reach
from tunneld.backend.mac import MacAddress
from tunneld.backend.vxlan import VTEP_MAC
from tunneld.lease.model import IPNetwork


def shared_macs(
    reaches: Mapping[IPNetwork, Reach],
) -> Iterator[tuple[IPNetwork, IPNetwork, MacAddress]]:
    """Yields each prefix whose VTEP address one before it has, in the order of `reaches`.

    Each comes as: the first prefix with that address, the later one, the address. Families do not
    meet: each has frames of its own.
    """
    first: dict[tuple[int, MacAddress], IPNetwork] = {}
    for prefix, reach in reaches.items():
        mac = reach.kernel.mac if reach.kernel else None
        if mac is None and reach.adjacency is not None and VTEP_MAC in reach.adjacency.of_peer:
            mac = MacAddress(reach.adjacency.of_peer[VTEP_MAC])
        if mac is not None:
            holder = first.setdefault((prefix.version, mac), prefix)
            if holder != prefix:
                yield holder, prefix, mac
