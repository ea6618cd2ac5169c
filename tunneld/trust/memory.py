"""Who had keys, and who was reached in plain, in the last 24 hours: what a host may not forget.

Beside the path of a lease: `trust.policy` -> **`trust.memory`** -> a file in the state directory.
Pure: the time is passed in, and the file is the caller's. It holds no secret.

A peer is known by its subnets and its underlay addresses: either is enough. Ages are counted on
CLOCK_BOOTTIME, which nobody sets; over a restart of the machine the wall clock must do.
A host that went back to flanneld leaves a record with keys in the store for up to a day: the
operator's word that it may be reached in plain holds until it shows another start of tunneld.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final, Protocol

from tunneld.lease.model import IPAddress, IPNetwork
from tunneld.trust.bindings import Bindings

LASTS_S: Final = 24 * 3600.0
"""How long after its last lease with keys a peer is not talked to in plain."""

NAME: Final = "peers-seen"
"""Of its file in the state directory."""

FORMAT: Final = 1


class Moment(Protocol):
    """The time, on the clocks that may tell how long something is ago."""

    @property
    def wall_s(self) -> float:
        """Wall clock: may have been set since, forth or back."""
        ...

    @property
    def boot_s(self) -> float:
        """Seconds since the start of the system, suspension included."""
        ...

    @property
    def boot_id(self) -> str | None:
        """Which start that was; None: the system does not say."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A peer as it was seen."""

    subnets: frozenset[IPNetwork]
    addresses: frozenset[IPAddress]
    seen_s: float
    """Last time, on the boot clock of this run; negative: before it began."""
    instance: str | None = None
    """Which start of tunneld its record showed; None: it showed none."""

    def __str__(self) -> str:
        return ",".join(sorted(map(str, self.subnets)))


class Sightings:
    """Peers seen within `LASTS_S`, found again by any of their subnets and addresses."""

    def __init__(self, sightings: Iterable[Sighting] = ()) -> None:
        self._all = {(one.subnets, one.addresses): one for one in sightings}
        self._index: _Index | None = None

    def add(
        self,
        subnets: Iterable[IPNetwork],
        addresses: Iterable[IPAddress],
        now_s: float,
        instance: str | None = None,
    ) -> bool:
        """Remembers a peer; returns whether it was not remembered in just this form."""
        new = Sighting(
            subnets=frozenset(subnets),
            addresses=frozenset(addresses),
            seen_s=now_s,
            instance=instance,
        )
        place = (new.subnets, new.addresses)
        former = self._all.get(place)
        # The clock of the caller may be read a moment before another's.
        if former is None or former.seen_s <= now_s:
            self._all[place] = new
        if former is None and self._index is not None:
            # Not made anew: a start sees thousands of peers for the first time.
            self._index.add(place)
        return former is None or former.instance != instance

    def touch(
        self, subnets: Iterable[IPNetwork], addresses: Iterable[IPAddress], now_s: float
    ) -> None:
        """Says that a peer is still there, if it is remembered in just this form."""
        if (frozenset(subnets), frozenset(addresses)) in self._all:
            self.add(subnets, addresses, now_s)

    def find(
        self, subnets: Iterable[IPNetwork], addresses: Iterable[IPAddress], now_s: float
    ) -> Sighting | None:
        """Returns a recent sighting that shares an address of either kind with these."""
        if self._index is None:
            self._index = _Index(self._all.values())
        for place in self._index.touching(subnets, addresses):
            sighting = self._all[place]
            if _is_recent(sighting, now_s):
                return sighting
        return None

    def forget(self, what: IPNetwork) -> tuple[Sighting, ...]:
        """Forgets the peers that have a subnet or address within `what`; returns them."""
        gone = tuple(
            one
            for one in self._all.values()
            if any(_within(subnet, what) for subnet in one.subnets)
            or any(address in what for address in one.addresses)
        )
        for one in gone:
            del self._all[one.subnets, one.addresses]
        self._index = None
        return gone

    def forget_peers(
        self, peers: Iterable[tuple[frozenset[IPNetwork], frozenset[IPAddress]]]
    ) -> None:
        """Forgets what shares a subnet or an address with any of these."""
        index = _Index(self._all.values())
        gone = {place for peer in peers for place in index.touching(*peer)}
        if gone:
            self._all = {place: one for place, one in self._all.items() if place not in gone}
            self._index = None

    def forget_old(self, now_s: float) -> None:
        """Forgets what is not recent any more."""
        recent = {place: one for place, one in self._all.items() if _is_recent(one, now_s)}
        if len(recent) != len(self._all):
            self._all, self._index = recent, None

    def dump(self) -> list[dict[str, Any]]:
        """Returns them as JSON."""
        return [
            {**_place_of(one), "SeenS": one.seen_s, "Instance": one.instance}
            for one in self._all.values()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """The operator's word that a host does not run tunneld any more."""

    subnets: frozenset[IPNetwork]
    addresses: frozenset[IPAddress]
    instance: str
    """Which start of tunneld its record has shown last: the one that is gone."""
    since_s: float
    """When it was given, on the boot clock of this run."""


class Memory:
    """What a host knows of its peers from before."""

    def __init__(
        self,
        with_keys: Iterable[Sighting] = (),
        plain: Iterable[Sighting] = (),
        allowed: Iterable[Allowance] = (),
    ) -> None:
        self.with_keys = Sightings(with_keys)
        """Whose lease came with keys."""
        self.plain = Sightings(plain)
        """Who was reached in plain."""
        self._allowed = list(allowed)

    def allow_plain(self, what: IPNetwork, now_s: float) -> tuple[Sighting, ...]:
        """Forgets that these peers had keys, by their subnet or an address; returns them.

        What their records show of keys is a thing of before, too.
        """
        gone = self.with_keys.forget(what)
        self._allowed += [
            Allowance(
                subnets=one.subnets,
                addresses=one.addresses,
                instance=one.instance,
                since_s=now_s,
            )
            for one in gone
            if one.instance is not None
        ]
        return gone

    def is_of_before(
        self,
        subnets: frozenset[IPNetwork],
        addresses: frozenset[IPAddress],
        instance: str,
        now_s: float,
    ) -> bool:
        """Returns whether keys that a record shows are those of a tunneld that is gone."""
        return any(
            one.instance == instance
            and bool(one.subnets & subnets or one.addresses & addresses)
            and now_s - one.since_s < LASTS_S
            for one in self._allowed
        )

    def dump(self, now: Moment) -> dict[str, Any]:
        """Returns it as JSON, with the time it was written at."""
        self.with_keys.forget_old(now.boot_s)
        self.plain.forget_old(now.boot_s)
        return {
            "Format": FORMAT,
            "Boot": now.boot_id,
            "BootS": now.boot_s,
            "WallS": now.wall_s,
            "WithKeys": self.with_keys.dump(),
            "Plain": self.plain.dump(),
            "Allowed": [
                {**_place_of(one), "Instance": one.instance, "SinceS": one.since_s}
                for one in self._allowed
                if now.boot_s - one.since_s < LASTS_S
            ],
        }

    @classmethod
    def load(cls, document: object, now: Moment) -> Memory:
        """Returns what `dump` wrote, with ages as they are now; empty for None.

        Raises:
            ValueError: it is not what `dump` writes.
        """
        if document is None:
            return cls()
        if not isinstance(document, dict) or document.get("Format") != FORMAT:
            raise ValueError("it is of another format")
        try:
            shift_s = _shift_s(document, now)
            return cls(
                [_sighting(item, shift_s, now) for item in document["WithKeys"]],
                [_sighting(item, shift_s, now) for item in document["Plain"]],
                [_allowance(item, shift_s, now) for item in document.get("Allowed", [])],
            )
        except (LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


class _Index:
    """Sightings by what they can be found by."""

    def __init__(self, sightings: Iterable[Sighting]) -> None:
        self._by_subnet: Bindings[list[_Place]] = Bindings()
        self._of_subnet: dict[IPNetwork, list[_Place]] = {}
        self._by_address: dict[IPAddress, list[_Place]] = {}
        for one in sightings:
            self.add((one.subnets, one.addresses))

    def add(self, place: _Place) -> None:
        subnets, addresses = place
        for subnet in subnets:
            found = self._of_subnet.get(subnet)
            if found is None:
                found = self._of_subnet[subnet] = []
                self._by_subnet.add(subnet, found)
            found.append(place)
        for address in addresses:
            self._by_address.setdefault(address, []).append(place)

    def touching(
        self, subnets: Iterable[IPNetwork], addresses: Iterable[IPAddress]
    ) -> Iterable[_Place]:
        for subnet in subnets:
            for _, places in self._by_subnet.all_overlapping(subnet):
                yield from places
        for address in addresses:
            yield from self._by_address.get(address, ())


_Place = tuple[frozenset[IPNetwork], frozenset[IPAddress]]


def _place_of(one: Sighting | Allowance) -> dict[str, Any]:
    return {
        "Subnets": sorted(map(str, one.subnets)),
        "Addresses": sorted(map(str, one.addresses)),
    }


def _is_recent(sighting: Sighting, now_s: float) -> bool:
    return now_s - sighting.seen_s < LASTS_S


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _shift_s(document: Mapping[str, Any], now: Moment) -> float:
    """Returns what makes a boot time of the document one of this run of the system."""
    if now.boot_id is not None and document["Boot"] == now.boot_id:
        return 0.0
    # A clock that was set back must not make a sighting one of the future, which never ends.
    elapsed_s = max(0.0, now.wall_s - _number(document["WallS"]))
    return now.boot_s - elapsed_s - _number(document["BootS"])


def _sighting(item: Mapping[str, Any], shift_s: float, now: Moment) -> Sighting:
    return Sighting(
        subnets=frozenset(map(ip_network, item["Subnets"])),
        addresses=frozenset(map(ip_address, item["Addresses"])),
        seen_s=min(_number(item["SeenS"]) + shift_s, now.boot_s),
        instance=item.get("Instance"),
    )


def _allowance(item: Mapping[str, Any], shift_s: float, now: Moment) -> Allowance:
    return Allowance(
        subnets=frozenset(map(ip_network, item["Subnets"])),
        addresses=frozenset(map(ip_address, item["Addresses"])),
        instance=str(item["Instance"]),
        since_s=min(_number(item["SinceS"]) + shift_s, now.boot_s),
    )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)
