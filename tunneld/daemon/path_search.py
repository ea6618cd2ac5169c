"""What one path carries, found by probes of its own: sizes out, answers in, time passed in. Pure.

Path of a lease: `daemon.path_mtu` (one of these for each peer in use) -> the MTU of its adjacency.
Probes go in rounds: a few sizes, each up to three times, always with a small one. A size that is
lost beside a small one that is answered does not pass. Where not even the small one is answered,
nothing can be found out, and datagrams may be fragmented instead, as those of flannel's vxlan may.

What the kernel has heard of the path is believed at once and then put to the test: the same ICMP
error may be forged, or be about another way to the peer.

Source: RFC 8899 (sections 4.6.2, 5.3: search, and errors of ICMP as a hint); RFC 8201 section 5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from tunneld.backend.base import OuterDf

LEAST_BYTES: Final = 68
"""What every link carries (RFC 791). Packets of IPv6 that have to be larger leave in fragments."""
SMALL_BYTES: Final = 100
"""Of the probe that every path carries, inner packet."""

ATTEMPTS: Final = 3
ATTEMPT_S: Final = 0.25
"""Between two attempts of a round."""
PATIENCE_S: Final = 0.6
"""After the last attempt of a round."""

FAN: Final = 8
"""Evenly spread sizes of one round of a search, beside those of links that exist."""
BURST: Final = 8
BURST_S: Final = 0.02
"""Probes sent at once, and how long until the next ones: a slow way has to take them."""
CLOSE_BYTES: Final = 16
"""How near the search comes before what it has found is used; it goes on to the byte."""

RAISE_S: Final = 60.0
"""How often more than was found is tried."""
SILENT_S: Final = 5.0
"""After the first round without any answer; twice as long after each further one, up to `RAISE_S`.
"""
SILENT_ROUNDS: Final = 3
"""Rounds without any answer, after which a peer that once answered counts as one that does not."""

LEAST_BELIEVED_BYTES: Final = 1280
"""Smallest MTU of a path that the kernel is believed without a probe (RFC 8899 section 4.6.2): less
is more likely forged, and senders that are told keep to it for minutes."""
BELIEF_S: Final = 600.0
"""How long the kernel's word counts; it forgets after as long (net.ipv4.route.mtu_expires)."""
DOUBTED_S: Final = 10.0
"""How often a path is looked at again whose size only probes speak for."""

PathState = Literal["unknown", "searching", "found", "silent"]
"""Nothing tried yet; probes are under way for the first time or find less than hoped; the MTU is
what probes found; the peer does not answer probes."""

_PLATEAUS: Final = (576, 1280, 1400, 1420, 1440, 1450, 1460, 1480, 1492, 1500, 4352, 8942, 9000)
"""MTUs of links that exist, tried before those in between."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe to be sent."""

    size_bytes: int
    """Of the inner packet."""
    token: int


@dataclass(slots=True)
class _Round:
    sizes: dict[int, int]
    """Tokens by size."""
    next_s: float
    above: int | None = None
    """A larger size that is known not to pass."""
    attempts: int = 0
    expected: int = 1
    """Answers that a size needs: one for each socket."""
    answers: dict[int, set[int]] = field(default_factory=dict)
    """Sockets that were answered, by token."""
    left: list[Probe] = field(default_factory=list)
    """Of the attempt under way, what is still to be sent."""

    def passed(self) -> set[int]:
        return {
            size
            for size, token in self.sizes.items()
            if len(self.answers.get(token, ())) >= self.expected
        }


class PathSearch:
    """One path. `mtu_bytes` and `outer_df` are what holds now."""

    def __init__(
        self,
        *,
        link_bytes: int,
        inner_bytes: Callable[[int], int],
        draw: Callable[[], int],
    ) -> None:
        """`link_bytes`: inner MTU that the link leaves. `draw` makes tokens of 64 bits.

        `inner_bytes` returns the largest inner packet that an outer IP packet has room for.
        """
        self.link_bytes = link_bytes
        self.mtu_bytes = link_bytes
        self.state: PathState = "unknown"
        self._inner_bytes = inner_bytes
        self._draw = draw
        self._cap: int | None = None
        self._found: int | None = None
        self._kernel: tuple[int, float] | None = None
        self._silent_rounds = 0
        self._doubts = False
        self._round: _Round | None = None
        self._idle_since_s = self._raised_s = 0.0

    @property
    def outer_df(self) -> OuterDf:
        """How datagrams leave."""
        if self.state == "silent":
            return "clear"
        if self._kernel is not None and self.mtu_bytes > self._kernel[0]:
            return "probed"
        return "kernel"

    @property
    def is_probing(self) -> bool:
        """Whether a round is under way."""
        return self._round is not None

    @property
    def due_s(self) -> float | None:
        """When `due` has something next."""
        return None if self._round is None else self._round.next_s

    def set_link(self, link_bytes: int) -> None:
        """Takes over a new MTU of the link; what was found below it stays."""
        if link_bytes == self.link_bytes:
            return
        was_whole = self.mtu_bytes == self._most
        self.link_bytes = link_bytes
        self.mtu_bytes = self._most if was_whole else min(self.mtu_bytes, self._most)
        self._round = None
        self._idle_since_s = float("-inf")

    def set_cap(self, outer_bytes: int | None) -> None:
        """Takes over the MTU of the operator's route; None: as much as the link."""
        self._cap = None if outer_bytes is None else self._inner_bytes(outer_bytes)
        self.mtu_bytes = min(self.mtu_bytes, self._most)
        if self._round is not None:
            for size in [size for size in self._round.sizes if size > self._most]:
                del self._round.sizes[size]
            self._round.left = [one for one in self._round.left if one.size_bytes <= self._most]

    @property
    def _most(self) -> int:
        return self.link_bytes if self._cap is None else min(self.link_bytes, self._cap)

    def use(self, now_s: float, interval_s: float) -> bool:
        """Says that the path is in use; returns whether a round began.

        `interval_s`: how often a path in use is looked at again.
        """
        if self._round is not None:
            return False
        if self._kernel is not None and now_s - self._kernel[1] >= BELIEF_S:
            self._kernel = None
            if self._found is None:
                self.mtu_bytes = self._most
        if self._silent_rounds:
            wait_s = min(SILENT_S * 2 ** min(self._silent_rounds - 1, 8), RAISE_S)
        else:
            wait_s = min(interval_s, DOUBTED_S) if self.outer_df == "probed" else interval_s
        if self.state != "unknown" and now_s - self._idle_since_s < wait_s:
            return False
        sizes = {self.mtu_bytes}
        if self.mtu_bytes < self._most and now_s - self._raised_s >= RAISE_S:
            self._raised_s = now_s
            # A byte more tells whether it is worth a search.
            sizes |= {self.mtu_bytes + 1, self._most}
        self._begin(sizes, now_s)
        return True

    def hint(self, path_mtu_bytes: int, now_s: float) -> None:
        """Takes the kernel's word on the largest IP packet that the path takes."""
        inner = max(self._inner_bytes(path_mtu_bytes), LEAST_BYTES)
        known, self._kernel = self._kernel, (inner, now_s)
        if (
            known is not None
            and known[0] == inner
            and (self._round is not None or self.outer_df == "probed")
        ):
            return
        hoped = self._found if self._found is not None else self.mtu_bytes
        if path_mtu_bytes >= LEAST_BELIEVED_BYTES:
            self.mtu_bytes = min(self.mtu_bytes, inner)
        self._begin({inner, inner + 1, self.mtu_bytes, hoped}, now_s)

    def due(self, now_s: float) -> list[Probe]:
        """Returns what is to be sent now; ends a round whose time is up."""
        round_ = self._round
        if round_ is None or now_s < round_.next_s:
            return []
        if not round_.left:
            if round_.attempts == ATTEMPTS:
                self._conclude(round_, now_s)
                return self.due(now_s)
            round_.attempts += 1
            passed = round_.passed()
            round_.left = [
                Probe(size, token) for size, token in round_.sizes.items() if size not in passed
            ]
        now, round_.left = round_.left[:BURST], round_.left[BURST:]
        if round_.left:
            round_.next_s = now_s + BURST_S
        else:
            round_.next_s = now_s + (PATIENCE_S if round_.attempts == ATTEMPTS else ATTEMPT_S)
        return now

    def expects(self, answers: int) -> None:
        """Says how many answers a size needs: one for each socket it was sent by."""
        if self._round is not None and answers:
            self._round.expected = answers

    def answered(self, token: int, socket: int, now_s: float) -> None:
        """Takes an answer to a probe of this path."""
        round_ = self._round
        if round_ is None:
            return
        round_.answers.setdefault(token, set()).add(socket)
        if len(round_.passed()) == len(round_.sizes):
            self._conclude(round_, now_s)

    def tokens(self) -> tuple[int, ...]:
        """Returns the tokens of the round under way."""
        return () if self._round is None else tuple(self._round.sizes.values())

    def _begin(self, sizes: set[int], now_s: float, above: int | None = None) -> None:
        small = min(SMALL_BYTES, self.mtu_bytes)
        usable = sorted({small, *(size for size in sizes if small <= size <= self._most)})
        self._round = _Round({size: self._draw() for size in usable}, now_s, above)
        if self.state == "unknown":
            self.state = "searching"

    def _conclude(self, round_: _Round, now_s: float) -> None:
        self._round, self._idle_since_s = None, now_s
        passed = round_.passed()
        if not passed:
            self._silent_rounds += 1
            if self._found is None or self._silent_rounds >= SILENT_ROUNDS:
                self.state = "silent"
            return
        self._silent_rounds = 0
        low = max(passed)
        high = min((size for size in round_.sizes if size > low), default=round_.above)
        if high is None:
            self._doubts = False
            # The largest that was tried passes: nothing larger is hoped for now.
            self._settle(low)
            return
        if self._found == high and not self._doubts:
            # What passed before may have been lost in a crowd: that is to show twice.
            self._doubts = True
            self._begin({low, high}, now_s)
            return
        self._doubts = False
        if high - low <= CLOSE_BYTES:
            self._settle(low)
        else:
            self.state = "searching"
        if high - low > 1:
            self._begin({low, *self._fan(low, high)}, now_s, above=high)

    def _settle(self, size: int) -> None:
        self._found = self.mtu_bytes = min(size, self._most)
        self.state = "found"

    def _fan(self, low: int, high: int) -> set[int]:
        """Returns sizes between two, exclusive: those of links that exist, and evenly spread ones.

        All of them where there are few.
        """
        between = high - low - 1
        if between <= 2 * FAN:
            return set(range(low + 1, high))
        known = {self._inner_bytes(mtu) for mtu in _PLATEAUS}
        # With one more, so that a guess that is right is known to be right at once.
        near = {size + more for size in known for more in (0, 1)}
        spread = {low + (high - low) * step // (FAN + 1) for step in range(1, FAN + 1)}
        return {size for size in near | spread if low < size < high}
