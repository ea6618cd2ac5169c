"""The clocks of this machine, for whoever has to know how long something lasts.

Beside the path of a lease: `store.sqlite`, `daemon` and `cli` read them, and pass the time on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def since_boot_s() -> float:
    """Returns the seconds since the start of the system, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The time, on the clocks that may tell how long a lease lasts."""

    wall_s: float
    """May have been set since, forth or back."""
    boot_s: float
    """As `since_boot_s`."""
    boot_id: str | None
    """Which start that was; None: the system does not say."""

    @classmethod
    def read(cls) -> Now:
        """Reads the clocks."""
        return cls(wall_s=time.time(), boot_s=since_boot_s(), boot_id=_boot_id())


@cache  # no process outlives a boot
def _boot_id() -> str | None:
    try:
        return _BOOT.read_text("ascii").strip() or None
    except OSError:
        return None
