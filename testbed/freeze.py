"""Freezes one thread of a running process, as if it hung, until the process ends.

    python freeze.py THREAD      prints `frozen` once it stands still; ends with the process

The other threads go on. As a program of its own, since the tracer has to wait for the thread it
traces: nobody else would hear of the end of the process.
Source: ptrace(2), PTRACE_SEIZE and PTRACE_INTERRUPT.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from testbed.process import Process

_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_WALL = 0x40000000


def freeze(thread: int, log: Path) -> Process:
    """Returns a process that holds `thread` still; it ends when the thread's process does."""
    process = Process((sys.executable, "-m", __name__, str(thread)), log)
    process.wait_for_output("frozen")
    return process


def _main(thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        if libc.ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None) != 0:
            sys.exit(f"cannot freeze {thread}: {os.strerror(ctypes.get_errno())}")
    while True:
        _, status = os.waitpid(thread, _WALL)
        if not os.WIFSTOPPED(status):
            return
        print("frozen", flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
