"""Which subnets a node may try to lease, best first.

Path of a lease: the lease table -> **`lease.allocation`** -> `lease.keeper`.
Pure: chance comes in as an argument, and nothing here knows whether a write will succeed.

Source: flannel `pkg/subnet/etcd/local_manager.go` (reuse by public IP, the old subnet.env, in each
family one of the first 100 free subnets by chance); the node's own record, reservations, and that
a lease which lacks a family keeps its subnet of the other, are tunneld's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import islice
from typing import Any, Generic, Literal, Protocol, TypeVar

from tunneld.errors import SubnetExhaustedError
from tunneld.lease.kinship import Identity, Written, ours
from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    Holder,
    Lease,
    Reservation,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.network import AnyPool, NetworkConfig
from tunneld.lease.precedence import came_second
from tunneld.lease.ranges import Ranges
from tunneld.lease.reserving import reservation_for

FREE_CHOICES = 100
"""How many free subnets chance chooses from, in each family."""

Origin = Literal[
    "owned",
    "kept",
    "lost",
    "public_ip",
    "past",
    "reservation",
    "subnet_env",
    "remembered",
    "free",
]

_Net = TypeVar("_Net", IPv4Network, IPv6Network)


class Shuffler(Protocol):
    """The part of `random.Random` that is needed."""

    def shuffle(self, x: list[Any]) -> None:
        """Brings `x` into an order by chance."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A key to claim."""

    key: SubnetKey
    expected_revision: int
    """`mod_revision` the key has in the table; 0: nothing stands there."""
    origin: Origin
    """`owned`, `public_ip`, `past`: a lease of ours. `kept`: it takes over the subnet of one family
    from a lease of ours whose key must go. `lost`: ours until it was deleted, ended, or was
    written over by what nobody can read."""
    drop: tuple[Lease, ...] = ()
    """Leases of ours that cannot stay, or are too many; they go in the same write."""
    reservation: Reservation | None = None
    """A lasting claim to write beside the lease, which itself ends with its grant."""


def candidates(
    view: Snapshot,
    *,
    me: Identity,
    config: NetworkConfig,
    rng: Shuffler,
    previous: SubnetKey | None = None,
    held: Lease | None = None,
    recalled: Lease | None = None,
    past: Collection[Written] = (),
    unanswered: Collection[SubnetKey] = (),
    blocked: Collection[SubnetKey] = (),
) -> Iterator[Candidate]:
    """Yields the keys to try, each at most once; each names a subnet of every family there is.

    Order: the lease this node owns; what can be kept of it; the subnets it lost; a lease with its
    public IP; what can be kept of that; one that it held in the past; a lease of its machine that
    the old subnet.env names; its reservation; the subnets of the old subnet.env; what it remembers;
    in each family one of the first free ones by chance. What a source lacks in one family is
    filled up from the next that has it.

    `held`, `previous`, `past` and `unanswered` are as in `lease.kinship`, which says what is
    ours. `recalled` is the lease as an earlier run wrote it last; that tells of no lease that it is
    ours, but which subnet to ask for. Of several leases of ours one is kept: one host holds one
    lease. `blocked` are keys whose
    claims failed though the table says they are free: their entries cannot be read.

    Raises:
        SubnetExhaustedError: after the other candidates, when no subnet is free.
    """
    holder = me.holder
    own: list[tuple[Origin, Lease]] = [
        (found.origin, found.lease)
        for found in ours(view, me, held=held, previous=previous, past=past, unanswered=unanswered)
    ]
    keys = {lease.key for _, lease in own}
    foreign = [lease for lease in view.leases if lease.key not in keys]
    second = came_second((lease for _, lease in own), foreign)
    fitting = [
        (origin, lease)
        for origin, lease in own
        if config.admits(lease.key) and lease.key not in second
    ]
    stay = {lease.key for _, lease in fitting}
    misfits = [(origin, lease) for origin, lease in own if lease.key not in stay]
    excess = [lease for _, lease in fitting if not lease.is_reservation]

    def drop(kept: SubnetKey | None) -> tuple[Lease, ...]:
        """Returns the leases of ours that go when the one of `kept` stays."""
        return tuple(
            lease for lease in (*(one for _, one in misfits), *excess) if lease.key != kept
        )

    wishes: list[_Wish] = [
        *(_kept(lease, view, holder) for origin, lease in misfits if origin == "owned"),
        *(_Wish("lost", key) for key in _lost(view, node_id=me.node_id, held=held)),
        *(_kept(lease, view, holder) for origin, lease in misfits if origin == "public_ip"),
        *(_Wish("reservation", key) for key in _reserved(view, holder)),
    ]
    if previous is not None:
        wishes.append(_Wish("subnet_env", previous))
    if held is None and recalled is not None:
        wishes.append(_Wish("remembered", recalled.key))
    occupied = [
        *(lease.key for lease in foreign),
        *stay,
        *(entry.key for entry in view.reservations if not holder.is_host_of(entry.holder)),
        *blocked,
    ]
    ipv4 = _Family(
        config.ipv4,
        Ranges(key.ipv4 for key in occupied if key.has_ipv4),
        [wish.key.ipv4 for wish in wishes],
        lambda base, length: IPv4Network((base, length)),
        rng,
    )
    ipv6 = _Family(
        config.ipv6,
        Ranges(key.ipv6 for key in occupied if key.ipv6 is not None),
        [wish.key.ipv6 for wish in wishes if wish.key.ipv6 is not None],
        lambda base, length: IPv6Network((base, length)),
        rng,
    )
    tried = set(blocked)

    def existing(wanted: Origin) -> Iterator[Candidate]:
        for origin, lease in fitting:
            if origin == wanted and lease.key not in tried:
                tried.add(lease.key)
                yield Candidate(
                    key=lease.key,
                    expected_revision=lease.mod_revision,
                    origin=origin,
                    drop=drop(lease.key),
                    reservation=_lasting(view, lease, holder),
                )

    def vacant(*sources: Origin) -> Iterator[Candidate]:
        for wish in wishes:
            if wish.origin in sources:
                key = _completed(wish.key, ipv4, ipv6)
                if key is not None and key not in tried:
                    tried.add(key)
                    yield Candidate(
                        key=key,
                        expected_revision=_written_over(view, key, held or recalled),
                        origin=wish.origin,
                        drop=drop(key),
                        reservation=wish.reservation,
                    )

    yield from existing("owned")
    yield from vacant("kept", "lost")
    yield from existing("public_ip")
    yield from existing("past")
    yield from existing("subnet_env")
    yield from vacant("reservation", "subnet_env", "remembered")

    for family in (ipv4, ipv6):
        if family.pool is not None and not family.free:
            raise _exhausted(family.pool, view)
    for key in _pairs(ipv4, ipv6):
        if key not in tried:
            yield Candidate(key=key, expected_revision=0, origin="free", drop=drop(key))


def _lost(view: Snapshot, *, node_id: str, held: Lease | None) -> Iterator[SubnetKey]:
    if held is not None:
        yield held.key
        return
    for record in view.records:
        if record.node_id == node_id:
            yield record.key


def _written_over(view: Snapshot, key: SubnetKey, held: Lease | None) -> int:
    """Returns the revision of what nobody can read at `key` in the place of `held`, else 0.

    An entry that was created by another write than the lease may be the lease of another host,
    which took the subnet once ours had ended, in a form of a later version.
    """
    return next(
        (
            entry.mod_revision
            for entry in view.malformed
            if entry.key == key
            and held is not None
            and (entry.key, entry.create_revision) == (held.key, held.create_revision)
        ),
        0,
    )


def _reserved(view: Snapshot, holder: Holder) -> Iterator[SubnetKey]:
    for reservation in sorted(view.reservations, key=lambda entry: entry.key):
        if holder.is_host_of(reservation.holder):
            yield reservation.key


def _lasting(view: Snapshot, lease: Lease, holder: Holder) -> Reservation | None:
    """Returns the reservation a lease of ours needs, unless it is there already."""
    wanted = reservation_for(lease.key, holder)
    if wanted in view.reservations:
        return None
    former = reservation_for(lease.key, lease.holder)
    return wanted if lease.is_reservation or former in view.reservations else None


@dataclass(frozen=True, slots=True)
class _Wish:
    """Subnets to try, of which not all need to be there or to be free."""

    origin: Origin
    key: SubnetKey
    reservation: Reservation | None = None


def _kept(lease: Lease, view: Snapshot, holder: Holder) -> _Wish:
    return _Wish("kept", lease.key, _lasting(view, lease, holder))


class _Family(Generic[_Net]):
    """What there is to choose from in one address family."""

    def __init__(
        self,
        pool: AnyPool | None,
        occupied: Ranges,
        wished: list[_Net],
        network: Callable[[int, int], _Net],
        rng: Shuffler,
    ) -> None:
        self.pool = pool
        self._occupied = occupied
        self._wished: list[_Net] = wished
        self._network: Callable[[int, int], _Net] = network
        self._rng = rng
        self._free: list[_Net] | None = None

    def has(self, subnet: _Net) -> bool:
        """Returns whether a host may take `subnet`."""
        return (
            self.pool is not None
            and subnet.version == self.pool.network.version
            and self.pool.admits(subnet)
            and subnet not in self._occupied
        )

    @property
    def free(self) -> list[_Net]:
        """The first free subnets, in an order by chance."""
        if self._free is None:
            self._free = self._chosen()
        return self._free

    @property
    def best(self) -> _Net | None:
        """What to take when one source does not say: the first that any says, else a free one."""
        wished = next((subnet for subnet in self._wished if self.has(subnet)), None)
        return wished or next(iter(self.free), None)

    def _chosen(self) -> list[_Net]:
        pool = self.pool
        if pool is None:
            return []
        size = 1 << (pool.network.max_prefixlen - pool.subnet_len)
        bases = self._occupied.gaps(int(pool.first), int(pool.last), size)
        free = [self._network(base, pool.subnet_len) for base in islice(bases, FREE_CHOICES)]
        self._rng.shuffle(free)
        return free


def _completed(
    key: SubnetKey, ipv4: _Family[IPv4Network], ipv6: _Family[IPv6Network]
) -> SubnetKey | None:
    """Returns a whole key with those subnets of `key` that may be taken; None when none may."""
    own_ipv4 = key.ipv4 if ipv4.has(key.ipv4) else None
    own_ipv6 = key.ipv6 if key.ipv6 is not None and ipv6.has(key.ipv6) else None
    if own_ipv4 is None and own_ipv6 is None:
        return None
    chosen_ipv4 = own_ipv4 or ipv4.best
    chosen_ipv6 = own_ipv6 or ipv6.best
    if (ipv4.pool is not None and chosen_ipv4 is None) or (
        ipv6.pool is not None and chosen_ipv6 is None
    ):
        return None
    return SubnetKey(chosen_ipv4 or NO_IPV4_SUBNET, chosen_ipv6)


def _pairs(ipv4: _Family[IPv4Network], ipv6: _Family[IPv6Network]) -> Iterator[SubnetKey]:
    if ipv4.pool is None:
        yield from (SubnetKey(NO_IPV4_SUBNET, subnet) for subnet in ipv6.free)
    elif ipv6.pool is None:
        yield from (SubnetKey(subnet) for subnet in ipv4.free)
    else:
        # Each subnet once: a key that was snatched away took both of them.
        yield from (SubnetKey(*pair) for pair in zip(ipv4.free, ipv6.free, strict=False))


def _exhausted(pool: AnyPool, view: Snapshot) -> SubnetExhaustedError:
    return SubnetExhaustedError(
        f"no free /{pool.subnet_len} in {pool.network}: all {pool.count} subnets "
        f"from {pool.first} to {pool.last} are taken by {len(view.leases)} "
        f"leases and {len(view.reservations)} reservations; widen {pool.prefix}Network, "
        f"raise {pool.prefix}SubnetLen, or wait for a lease to end"
    )
