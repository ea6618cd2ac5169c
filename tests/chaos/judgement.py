"""Judges what a round of chaos has seen. Pure.

Pair: sender and receiver, by number. Times are seconds of the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

GAP_S = 0.25
"""A silence: so long without a datagram, where one is sent every 20 ms."""

STEADY_S = 1.0
"""So long without a silence means that a pair is back."""


def back_after(came: Sequence[float], over_s: float, now_s: float) -> float | None:
    """Returns how long after `over_s` a pair's last silence ended; 0 if there was none.

    `came`: when each datagram that has arrived was sent. None while it is not known: the pair is
    silent, or has not been steady for long enough.
    """
    times = [over_s, *sorted(sent_s for sent_s in came if sent_s >= over_s)]
    ends = [after for before, after in pairwise(times) if after - before > GAP_S]
    back_s = ends[-1] if ends else over_s
    is_steady = len(times) > 1 and now_s - times[-1] <= GAP_S and now_s - back_s >= STEADY_S
    return back_s - over_s if is_steady else None


@dataclass(frozen=True, slots=True)
class Size:
    """What a daemon holds of the machine."""

    pid: int
    memory_kib: int
    descriptors: int
    threads: int


def grown(sizes: Iterable[Size], *, memory_kib: int, descriptors: int, threads: int) -> list[str]:
    """Returns what grew by more than is allowed between the first and last look at a process."""
    first: dict[int, Size] = {}
    last: dict[int, Size] = {}
    for size in sizes:
        first.setdefault(size.pid, size)
        last[size.pid] = size
    found = []
    for pid, before in first.items():
        after = last[pid]
        if after.memory_kib - before.memory_kib > memory_kib:
            found.append(f"process {pid}: {before.memory_kib} to {after.memory_kib} KiB")
        if after.descriptors - before.descriptors > descriptors:
            found.append(f"process {pid}: {before.descriptors} to {after.descriptors} descriptors")
        if after.threads - before.threads > threads:
            found.append(f"process {pid}: {before.threads} to {after.threads} threads")
    return found
