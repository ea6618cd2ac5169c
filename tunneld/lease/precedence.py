"""Which of two leases that overlap was there first. Pure.

Path of a lease: the lease table -> **`lease.precedence`** -> `lease.allocation`,
`lease.acquisition`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from tunneld.lease.model import IPNetwork, Lease, SubnetKey

_Block = tuple[int, int, int]
"""IP version, prefix length, and the address without its host bits, shifted down."""


def came_second(leases: Iterable[Lease], others: Iterable[Lease]) -> set[SubnetKey]:
    """Returns which of `leases` found one of `others` in a subnet of theirs when they were written.

    Two hosts that choose at the same time may choose the same subnet of one family and write it
    under two keys, of which no write contradicts the other. `others` of the same key do not count.

    Of two subnets that overlap one is part of the other: each is looked up under the prefix
    lengths there are, so that many that overlap take no longer than many that do not.
    """
    leases = tuple(leases)
    keys = {lease.key for lease in leases}
    wanted = {block for lease in leases for block in _blocks(lease)}
    lengths = {block[:2] for block in wanted}
    exactly: dict[_Block, int] = {}
    """The first write of each subnet of the others."""
    inside: dict[_Block, int] = {}
    """The first write in each wanted subnet."""
    for other in others:
        if other.key in keys:
            continue
        for block in _blocks(other):
            _note(exactly, block, other.create_revision)
            for wider in _wider(block, lengths):
                if wider in wanted:
                    _note(inside, wider, other.create_revision)
    widths = {block[:2] for block in exactly}

    def first(block: _Block) -> float:
        around = (exactly.get(wider, math.inf) for wider in _wider(block, widths))
        return min(inside.get(block, math.inf), *around, math.inf)

    return {
        lease.key
        for lease in leases
        if any(first(block) < lease.create_revision for block in _blocks(lease))
    }


def _blocks(lease: Lease) -> Iterator[_Block]:
    for subnet in lease.key.subnets:
        yield subnet.version, subnet.prefixlen, _prefix(subnet)


def _prefix(subnet: IPNetwork) -> int:
    return int(subnet.network_address) >> (subnet.max_prefixlen - subnet.prefixlen)


def _wider(block: _Block, lengths: Iterable[tuple[int, int]]) -> Iterator[_Block]:
    """Yields the subnet itself and those around it, of these versions and prefix lengths."""
    version, length, prefix = block
    for other_version, shorter in lengths:
        if other_version == version and shorter <= length:
            yield version, shorter, prefix >> (length - shorter)


def _note(first: dict[_Block, int], block: _Block, revision: int) -> None:
    first[block] = min(revision, first.get(block, revision))
