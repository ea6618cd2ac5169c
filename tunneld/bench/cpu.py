"""CPU time of a tunnel's processes, of the whole machine, and of programs that are not ours.

Reads /proc only. This kernel keeps no time for interrupts: packet work in a softirq is charged to
the process it interrupts or follows, so a tunnel's time holds the kernel's work for it, and the
kernel's own vxlan has no process that its work could be charged to. Hence the machine's time too.
Source: proc(5).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

QUIET_SHARE: Final = 0.05
_LOOK_S: Final = 0.5
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
CPUS: Final = os.cpu_count() or 1
_KTHREADD: Final = 2
_PARENT, _OWN, _WITH_CHILDREN = 1, slice(11, 13), slice(11, 15)
"""Places in /proc/PID/stat behind the name: ppid; utime and stime; and those of reaped children."""
_IDLE, _IOWAIT, _STEAL = 3, 4, 7

Stats = Mapping[int, Sequence[str]]
"""What /proc/PID/stat says behind the name, by the pid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters at one moment; CPU seconds since the start of the processes or the machine."""

    at_s: float
    tunnel_s: float
    foreign_s: float
    busy_s: float
    steal_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a span of time cost, in CPU seconds; the machine's share is of all its cores."""

    elapsed_s: float
    tunnel_cpu_s: float
    machine_cpu_s: float
    """Without the foreign part."""
    foreign_share: float
    steal_s: float

    def fields(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def read(tunnel_pids: Iterable[int]) -> Reading:
    """Returns the counters now; the tunnel's are those of all threads of its processes."""
    at_s = time.monotonic()
    stats = dict(all_stats())
    cpu = [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(cpu) - cpu[_IDLE] - cpu[_IOWAIT] - cpu[_STEAL]
    return Reading(
        at_s=at_s,
        tunnel_s=sum(_ticks(stats[pid], _OWN) for pid in tunnel_pids) / _TICKS_PER_S,
        foreign_s=foreign_ticks(stats, os.getpid()) / _TICKS_PER_S,
        busy_s=busy / _TICKS_PER_S,
        steal_s=cpu[_STEAL] / _TICKS_PER_S,
    )


def between(before: Reading, after: Reading) -> Usage:
    """Returns what the time between two readings cost."""
    elapsed_s = after.at_s - before.at_s
    # A process may end unseen between two looks into /proc.
    foreign_s = max(0.0, after.foreign_s - before.foreign_s)
    return Usage(
        elapsed_s=elapsed_s,
        tunnel_cpu_s=after.tunnel_s - before.tunnel_s,
        machine_cpu_s=max(0.0, after.busy_s - before.busy_s - foreign_s),
        foreign_share=min(1.0, foreign_s / (elapsed_s * CPUS)),
        steal_s=after.steal_s - before.steal_s,
    )


def foreign_ticks(stats: Stats, own_pid: int) -> int:
    """Returns the time of all processes but the kernel's threads, us and what we started.

    The time of reaped children counts with their parent, so that a process may come and go
    between two readings and is still seen, once.
    """
    ours = _with_descendants(own_pid, stats)
    return sum(
        _ticks(fields, _WITH_CHILDREN)
        for pid, fields in stats.items()
        if pid not in ours and _KTHREADD not in (pid, int(fields[_PARENT]))
    )


def became_quiet(timeout_s: float) -> bool:
    """Waits until other programs take little of the machine; returns whether they do in time."""
    deadline = time.monotonic() + timeout_s
    while timeout_s > 0:
        before = read(())
        time.sleep(_LOOK_S)
        if between(before, read(())).foreign_share <= QUIET_SHARE:
            return True
        if time.monotonic() >= deadline:
            return False
    return True


def _ticks(fields: Sequence[str], places: slice) -> int:
    return sum(int(field) for field in fields[places])


def all_stats() -> Iterator[tuple[int, list[str]]]:
    """Yields what /proc/PID/stat says of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            yield int(entry.name), text.rpartition(")")[2].split()


def _with_descendants(root: int, stats: Stats) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    found, left = {root}, [root]
    while left:
        for child in children.get(left.pop(), []):
            found.add(child)
            left.append(child)
    return found
