"""Which networks are bound to whom, and what overlaps them: one look-up per prefix length.

Beside the path of a lease: `trust.identities` and `trust.decision` ask it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from tunneld.lease.model import IPNetwork

_Owner = TypeVar("_Owner")

_Place: TypeAlias = tuple[int, int, int]
"""IP version, prefix length and the bits of a prefix: what a network is, quick to hash."""


class Bindings(Generic[_Owner]):
    """Networks with an owner each."""

    def __init__(self) -> None:
        self._bound: dict[_Place, tuple[IPNetwork, _Owner]] = {}
        self._inside: dict[_Place, list[_Place]] = {}
        """What is bound inside a network, by any that contains it."""

    def add(self, network: IPNetwork, owner: _Owner) -> None:
        """Binds a network to an owner, whoever had it."""
        places = list(_places_around(network))
        if places[0] not in self._bound:
            for place in places:
                self._inside.setdefault(place, []).append(places[0])
        self._bound[places[0]] = (network, owner)

    def overlapping(self, network: IPNetwork) -> tuple[IPNetwork, _Owner] | None:
        """Returns a bound network that shares an address with this one, and its owner."""
        return next(self.all_overlapping(network), None)

    def all_overlapping(self, network: IPNetwork) -> Iterator[tuple[IPNetwork, _Owner]]:
        """Yields all bound networks that share an address with this one, and their owners."""
        here, *around = _places_around(network)
        for place in self._inside.get(here, ()):
            yield self._bound[place]
        for place in around:
            if place in self._bound:
                yield self._bound[place]


def _places_around(network: IPNetwork) -> Iterator[_Place]:
    """Yields the place of a network, then those of all that contain it."""
    bits = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
    for length in range(network.prefixlen, -1, -1):
        yield network.version, length, bits
        bits >>= 1
