"""Watches the machine while something is measured: other programs, stand-stills, frequency.

Reads /proc. A thread of its own sleeps and looks how late it is woken.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tunneld.bench import cpu
from tunneld.bench.noise import Conditions

_LOOK_S: Final = 0.02
_MHZ: Final = re.compile(r"^cpu MHz\s*: ([0-9.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a watched time took."""

    usage: cpu.Usage
    conditions: Conditions


class Watch:
    """Watches from `with` to its end; `spent` is there afterwards."""

    def __init__(self, pids: Iterable[int] = ()) -> None:
        """`pids` are the processes whose CPU time is that of the tunnel."""
        self._pids = list(pids)
        self._over = threading.Event()
        self._stall_s = 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.spent: Spent | None = None

    def __enter__(self) -> Self:
        self._mhz = frequencies_mhz()
        self._before = cpu.read(self._pids)
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        usage = cpu.between(self._before, cpu.read(self._pids))
        mhz = self._mhz + frequencies_mhz()
        elapsed_s = max(usage.elapsed_s, 1e-9)
        conditions = Conditions(
            foreign_share=round(usage.foreign_share, 4),
            steal_share=round(usage.steal_s / (elapsed_s * cpu.CPUS), 4),
            stall_s=round(self._stall_s, 4),
            mhz_low=min(mhz, default=None),
            mhz_high=max(mhz, default=None),
        )
        self.spent = Spent(usage=usage, conditions=conditions)

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_LOOK_S):
            now = time.monotonic()
            self._stall_s = max(self._stall_s, now - before - _LOOK_S)
            before = now


def frequencies_mhz() -> list[float]:
    """Returns what the kernel says of every processor's clock; nothing where it says nothing."""
    return [float(text) for text in _MHZ.findall(Path("/proc/cpuinfo").read_text())]
