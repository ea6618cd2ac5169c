"""Builds the real flanneld, once, and says where it is.

The binary is kept in `${XDG_CACHE_HOME:-~/.cache}/tunneld` under its version, so that only the
first run on a machine pays for the build. cgo stays on: without it flannel has no udp backend.
Source: go.mod beside this file names the version, go.sum pins all it consists of.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from testbed.cache import cache_dir, one_at_a_time
from testbed.golang import BuildError, build, run

FLANNEL_VERSION: Final = "v0.28.9"

_HERE: Final = Path(__file__).resolve().parent
_MODULE: Final = "github.com/flannel-io/flannel"


def flanneld_binary() -> Path:
    """Returns the path of flanneld, built first if the cache has none.

    Raises:
        BuildError: no C compiler, no Go to be had, or the build failed.
    """
    binary = cache_dir() / f"flanneld-{FLANNEL_VERSION}"
    with one_at_a_time("flanneld"):
        if not binary.exists():
            _build(binary)
    said = run([str(binary), "-version"]).stderr.strip()
    if said != FLANNEL_VERSION:
        raise BuildError(f"{binary} calls itself {said!r}, expected {FLANNEL_VERSION}: remove it")
    return binary


def _build(binary: Path) -> None:
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        raise BuildError("flanneld's udp backend is C, no compiler on the PATH: install gcc")
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        for name in ("go.mod", "go.sum"):
            shutil.copy(_HERE / name, scratch)
        built = Path(scratch) / "flanneld"
        stamp = f"-X {_MODULE}/pkg/version.Version={FLANNEL_VERSION}"
        build(Path(scratch), built, _MODULE, "-ldflags", stamp, cgo=True)
        built.replace(binary)


if __name__ == "__main__":
    sys.stdout.write(f"{flanneld_binary()}\n")
