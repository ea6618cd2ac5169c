"""What runs, what is left, for how long: one line on a terminal, now and then one elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

_SELDOM_S: Final = 10.0
"""Where lines stay, as in a log."""
_CLEAR: Final = "\r\x1b[K"


class Progress:
    """Tells of steps whose durations are known about; what they really take corrects the rest."""

    def __init__(self, total_s: float, steps: int, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._total_s, self._steps = total_s, steps
        self._done_s, self._done = 0.0, 0
        self._began = time.monotonic()
        self._said_at = -_SELDOM_S

    def step(self, text: str, seconds: float) -> None:
        """Says what begins now."""
        self._done += 1
        left = left_s(self._total_s, self._done_s, time.monotonic() - self._began)
        line = f"[{self._done}/{self._steps}] {text}; about {spoken(left)} left"
        self._done_s += seconds
        now = time.monotonic()
        if self._is_terminal or now - self._said_at >= _SELDOM_S:
            self._said_at = now
            self._write(line)

    def say(self, text: str) -> None:
        """Says something besides, such as what is built."""
        self._write(text)

    def close(self) -> None:
        if self._is_terminal:
            self._stream.write(_CLEAR)
            self._stream.flush()

    def _write(self, line: str) -> None:
        # What nobody can see must not end the measurement.
        try:
            self._stream.write(f"{_CLEAR}{line}" if self._is_terminal else f"{line}\n")
            self._stream.flush()
        except OSError:
            return


def left_s(total_s: float, done_s: float, passed_s: float) -> float:
    """Returns the seconds left: what was planned, corrected by what the done part really took."""
    left = max(0.0, total_s - done_s)
    # A first step says little about the others.
    share = min(1.0, done_s / total_s * 5) if total_s else 0.0
    pace = passed_s / done_s if done_s else 1.0
    return left * (share * pace + 1 - share)


def spoken(seconds: float) -> str:
    """Returns a duration in words."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s"
