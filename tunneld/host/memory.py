"""The daemon's memory: freed blocks go back to the system, and none goes into a core dump.

A listing of thousands of leases passes through memory once. By its defaults the C library would
keep much of that for a next time, which never comes. Keys and PSKs lie in memory for good.

Source: mallopt(3), PR_SET_DUMPABLE(2const).
"""

from __future__ import annotations

import ctypes
import os

from tunneld.errors import HostError

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_PR_SET_DUMPABLE = 4

THRESHOLD_BYTES = 64 * 1024
"""Blocks of this size are the system's own again once freed; so is as much at the end of a heap."""


def give_back_what_is_free() -> None:
    """Sets the thresholds for this process. Does nothing with a C library that has none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(option, THRESHOLD_BYTES)


def keep_out_of_core_dumps() -> None:
    """Has the kernel write no core dump of this process, whatever limits and handlers say.

    Other programs of its user may not look into its memory then either.

    Raises:
        HostError: the kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HostError(
            f"cannot keep keys out of core dumps: {os.strerror(ctypes.get_errno())}; expected "
            "prctl(PR_SET_DUMPABLE): allow it in the filter of system calls"
        )
