"""The time, on the clocks by which a daemon may tell how long ago something was.

Beside the path of a lease: the kernel -> **`host.clocks`** -> `daemon.cache`, `trust.memory`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """The time, on the clocks that may tell how long a lease lasts."""

    wall_s: float
    """May have been set since, forth or back."""
    boot_s: float
    """Seconds since the start of the system, suspension included."""
    boot_id: str | None
    """Which start that was; None: the system does not say."""

    @classmethod
    def read(cls) -> Now:
        """Reads the clocks."""
        try:
            boot_id = _BOOT.read_text("ascii").strip() or None
        except OSError:
            boot_id = None
        return cls(
            wall_s=time.time(), boot_s=time.clock_gettime(time.CLOCK_BOOTTIME), boot_id=boot_id
        )
