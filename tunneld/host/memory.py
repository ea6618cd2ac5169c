"""Lets the C library give memory back to the system soon after it is freed.

A listing of thousands of leases passes through memory once. By its defaults the library would
keep much of that for a next time, which never comes.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

THRESHOLD_BYTES = 64 * 1024
"""Blocks of this size are the system's own again once freed; so is as much at the end of a heap."""


def give_back_what_is_free() -> None:
    """Sets the thresholds for this process. Does nothing with a C library that has none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(option, THRESHOLD_BYTES)
