"""The directory for what is fetched or built once on a machine, and turns for who must not meet."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Returns the directory that outlives a checkout, made if it was missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "tunneld"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Waits until no other test run on this machine is at the same work."""
    with (cache_dir() / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
