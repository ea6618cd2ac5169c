"""Installs the package below a directory, as one does who packs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from testbed.cache import one_at_a_time

_ROOT = Path(__file__).resolve().parents[1]


def install_below(destination: Path) -> None:
    """Runs `make install`; what it puts on a host is then below `destination`, under its own path.

    Raises:
        AssertionError: it failed; the message holds what it said.
    """
    with one_at_a_time("wheel"):
        done = subprocess.run(
            ["make", "install", f"DESTDIR={destination}", "PREFIX=/usr"],
            cwd=_ROOT,
            # Not a part of the make that may be running the caller.
            env={name: text for name, text in os.environ.items() if not name.startswith("MAKE")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    if done.returncode != 0:
        msg = f"make install ended with {done.returncode}: {done.stdout}{done.stderr}"
        raise AssertionError(msg)
