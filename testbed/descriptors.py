"""A process without a free file descriptor: this one, or a daemon."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMIT = 256


@contextmanager
def none_free() -> Iterator[None]:
    """Takes all descriptors of this process while the block runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_LIMIT, hard))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(2))
            except OSError:
                break
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def none_free_in(pid: int) -> Iterator[None]:
    """Lets another process open nothing more while the block runs; what it has stays open."""
    used = len(os.listdir(Path("/proc", str(pid), "fd")))
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # Numbers are given from the lowest free one: below this limit none is.
    numbers = {int(name) for name in os.listdir(Path("/proc", str(pid), "fd"))}
    limit = next(number for number in range(used + 1) if number not in numbers)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
