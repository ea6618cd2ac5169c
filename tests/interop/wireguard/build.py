"""Builds the WireGuard peer of main.go, once for each version of its sources, into the cache."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Final

from tests.support.cache import cache_dir, one_at_a_time
from tests.support.golang import build

_HERE: Final = Path(__file__).resolve().parent


def wireguard_peer() -> Path:
    """Returns the path of the program.

    Raises:
        BuildError: no Go to be had, or the build failed.
    """
    sources = b"".join((_HERE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    binary = cache_dir() / f"wireguard-peer-{hashlib.sha256(sources).hexdigest()[:16]}"
    with one_at_a_time("wireguard-peer"):
        if not binary.exists():
            with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
                built = Path(scratch) / "peer"
                build(_HERE, built, ".", cgo=False)
                built.replace(binary)
    return binary
