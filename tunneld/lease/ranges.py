"""Ranges of addresses, of one family or the other.

Path of a lease: the lease table -> **`lease.ranges`** -> `lease.allocation`,
`lease.selection`. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from tunneld.lease.model import IPAddress, IPNetwork


def last_address(network: IPNetwork) -> int:
    """Returns the last address of `network` as a number.

    Asked of the network itself, it would be kept there for good, for each of thousands.
    """
    size = 1 << (network.max_prefixlen - network.prefixlen)
    return int(network.network_address) + size - 1


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Returns whether any address is in both. Networks of two families share none."""
    return (
        one.version == other.version
        and int(one.network_address) <= last_address(other)
        and int(other.network_address) <= last_address(one)
    )


def is_inside(address: IPAddress, network: IPNetwork) -> bool:
    """Returns whether `address` is in `network`; never across families."""
    return address.version == network.version and (
        int(network.network_address) <= int(address) <= last_address(network)
    )


def is_part(subnet: IPNetwork, network: IPNetwork) -> bool:
    """Returns whether all of `subnet` is in `network`; never across families."""
    return subnet.prefixlen >= network.prefixlen and is_inside(subnet.network_address, network)


class Ranges:
    """Address ranges of one family, sorted and joined where they overlap."""

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        ranges = sorted(
            (int(network.network_address), last_address(network)) for network in networks
        )
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            if self._last and first <= self._last[-1]:
                self._last[-1] = max(self._last[-1], last)
            else:
                self._first.append(first)
                self._last.append(last)

    def __contains__(self, network: IPNetwork) -> bool:
        """Returns whether any address of `network` is in a range."""
        at = bisect_right(self._first, last_address(network)) - 1
        return at >= 0 and self._last[at] >= int(network.network_address)

    def gaps(self, first: int, last: int, size: int) -> Iterator[int]:
        """Yields the bases, from `first` to `last`, of the blocks of `size` that no range meets."""
        position = first
        for start, end in zip(self._first, self._last, strict=True):
            while position <= last and position + size <= start:
                yield position
                position += size
            if end >= position:
                position = (end // size + 1) * size
        while position <= last:
            yield position
            position += size
