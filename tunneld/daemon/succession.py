"""The rule by which one underlay follows another, apart from the kernel and the clock.

While the address in use stands on its interface, nothing moves, whatever else comes or goes. After
its loss it is waited for; an address that came in its place is taken at once, one that had stood
beside it only after a while. An address that was lost is taken again when it returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tunneld.host.underlay import Underlay
from tunneld.lease.model import IPAddress

GRACE_S = 3.0
"""How long an address that is lost is waited for before one takes its place that stood beside it,
like the virtual address of a pair of hosts. A DHCP client that starts anew needs less."""

REPLACED_WITHIN_S = 0.5
"""An address that came so long before the loss, or after it, is the new one of a host whose
address has changed: network managers add it just before they remove the old one."""

AT_HOME_S = 86400.0
"""An address so long in use is the host's own: those before it are not returned to any more."""

MAX_FORMER = 4

Addresses = tuple[IPAddress, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a look at the host's interfaces has found."""

    held: Underlay | None
    """The underlay in use as it is now; None: it is not there."""
    chosen: Underlay | None
    """What the operator's selection means now; None: nothing, or nobody has asked."""
    addresses: Collection[IPAddress]
    """All that the host has."""


class Succession:
    """The underlay in use, and those before it."""

    def __init__(self, former: Iterable[Addresses] = ()) -> None:
        """`former` are the addresses of an earlier run, the most wanted first."""
        self.in_use: Underlay | None = None
        """The one everything is bound to, be it there at the moment or not."""
        self.is_held = False
        """Whether it is there, and can be bound to."""
        self._former = tuple(former)
        self._taken_at_s = 0.0
        self._lost_at_s: float | None = None
        self._seen_at_s: dict[IPAddress, float] | None = None

    @property
    def memory(self) -> tuple[Addresses, ...]:
        """What the next run is to begin with."""
        return self._former if self.in_use is None else (*self._former, self.in_use.addresses)

    def preferred(self, held: Underlay | None) -> tuple[Addresses, ...]:
        """Returns which addresses the selection is to prefer; none: it need not be asked."""
        return self.memory if held is None else self._former

    def wait_s(self, now_s: float) -> float | None:
        """Returns when time alone may change something; None: never."""
        if self._lost_at_s is None:
            return None
        left_s = self._lost_at_s + GRACE_S - now_s
        return left_s if left_s > 0 else None

    def see(self, sight: Sight, now_s: float) -> bool:
        """Takes what was found; returns whether the underlay has moved, or is the first."""
        self._note(sight.addresses, now_s)
        before, held, chosen = self.in_use, sight.held, sight.chosen
        if before is None:
            if chosen is None or chosen.is_tentative:
                return False
            self._take(chosen, now_s)
            return True
        if held is not None:
            self.in_use, self.is_held, self._lost_at_s = held, not held.is_tentative, None
            if now_s - self._taken_at_s >= AT_HOME_S:
                self._former = ()
            if chosen is None or chosen.is_tentative or chosen.addresses not in self._former:
                return False
            self._take(chosen, now_s)
            return True
        self.is_held = False
        if self._lost_at_s is None:
            self._lost_at_s = now_s
        if chosen is None or chosen.is_tentative or not self._may_follow(before, chosen, now_s):
            return False
        if chosen.addresses != before.addresses and chosen.addresses not in self._former:
            self._former = (*self._former, before.addresses)[-MAX_FORMER:]
        self._take(chosen, now_s)
        return True

    def _may_follow(self, lost: Underlay, chosen: Underlay, now_s: float) -> bool:
        if chosen.addresses == lost.addresses or chosen.addresses in self._former:
            return True
        lost_at_s, seen_at_s = self._lost_at_s or now_s, self._seen_at_s or {}
        return now_s - lost_at_s >= GRACE_S or all(
            seen_at_s.get(address, now_s) >= lost_at_s - REPLACED_WITHIN_S
            for address in chosen.addresses
            if address not in lost.addresses
        )

    def _take(self, chosen: Underlay, now_s: float) -> None:
        if chosen.addresses in self._former:
            self._former = self._former[: self._former.index(chosen.addresses)]
        self.in_use, self.is_held = chosen, True
        self._taken_at_s, self._lost_at_s = now_s, None

    def _note(self, addresses: Collection[IPAddress], now_s: float) -> None:
        """Keeps since when each address is there; those of the first look were there before."""
        if self._seen_at_s is None:
            self._seen_at_s = dict.fromkeys(addresses, float("-inf"))
        else:
            known = self._seen_at_s
            self._seen_at_s = {address: known.get(address, now_s) for address in addresses}
