"""Builds programs of wireguard-go into the cache, once for each version of their sources.

One is the peer of main.go, for the handshake; the other is wireguard-go itself, for the bench.
go.mod and go.sum beside this file name the version of both.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import Final

from testbed.cache import cache_dir, one_at_a_time
from testbed.golang import build

_HERE: Final = Path(__file__).resolve().parent
_MODULE: Final = "golang.zx2c4.com/wireguard"


def wireguard_peer() -> Path:
    """Returns the path of the peer that has no device.

    Raises:
        BuildError: no Go to be had, or the build failed.
    """
    return _built("wireguard-peer", ".", "main.go", "go.mod", "go.sum")


def wireguard_go() -> Path:
    """Returns the path of wireguard-go with its device and all its offloads.

    Raises:
        BuildError: no Go to be had, or the build failed.
    """
    return _built("wireguard-go", _MODULE, "go.mod", "go.sum")


def wireguard_version() -> str:
    """Returns the version of the module, as the Go proxy names it."""
    [version] = re.findall(rf"{re.escape(_MODULE)} (\S+)", (_HERE / "go.mod").read_text())
    return str(version)


def _built(name: str, package: str, *sources: str) -> Path:
    digest = hashlib.sha256(b"".join((_HERE / source).read_bytes() for source in sources))
    binary = cache_dir() / f"{name}-{digest.hexdigest()[:16]}"
    with one_at_a_time(name):
        if not binary.exists():
            with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
                built = Path(scratch) / "built"
                build(_HERE, built, package, cgo=False)
                built.replace(binary)
    return binary
