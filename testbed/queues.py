"""Longer queues for a flanneld that must not lose a probe while it is held up.

Its TUN device holds 500 packets, and its socket what `net.core.rmem_default` says, 277 small ones:
with 200 probes a second it may stand still for 1.4 s. Where many tests share a machine a process
may be held up for longer, and what it loses then is not the doing of what is tested.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

QUEUE_PACKETS: Final = 10_000
BUFFER_BYTES: Final = 8 << 20

_SO_RCVBUFFORCE: Final = 33
_PIDFD_GETFD: Final = 438


def lengthen(run: Callable[..., object], pid: int) -> None:
    """Lengthens the queues of a flanneld with the udp backend until its end.

    Args:
        run: runs a program on flanneld's host.
        pid: flanneld's process, as seen from here.
    """
    run("ip", "link", "set", "dev", "flannel0", "txqueuelen", str(QUEUE_PACKETS))
    widened = 0
    for shared in _sockets(pid):
        with shared:
            if (shared.family, shared.type) == (socket.AF_INET, socket.SOCK_DGRAM):
                shared.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
                widened += 1
    assert widened, f"process {pid} has no UDP socket"


def _sockets(pid: int) -> Iterator[socket.socket]:
    """Yields the sockets of another process, shared with it. Source: pidfd_getfd(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not entry.is_socket():
                continue
            number = libc.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
            if number >= 0:  # else it was closed since
                yield socket.socket(fileno=number)
    finally:
        os.close(process)
