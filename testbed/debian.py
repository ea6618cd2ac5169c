"""Packages of any Debian release, unpacked beside the system, which stays as it is.

The directories live in `${XDG_CACHE_HOME:-~/.cache}/tunneld`, so that only the first run on a
machine fetches anything. apt does the fetching, from the mirror that apt's own sources name, and
checks the signatures with the keys that the system trusts for it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from testbed.cache import cache_dir, one_at_a_time

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES: Final = Path("/etc/apt")


class UnpackError(RuntimeError):
    """A package could not be had; the message says from where."""


def unpacked(name: str, packages: Sequence[str], through: Sequence[str] = ()) -> Path:
    """Returns the directory `name` of the cache with the files of `packages` in it.

    Args:
        name: of the directory; what it holds is not looked at again once it is complete.
        packages: as `PACKAGE/RELEASE`; what they depend on does not come with them.
        through: packages that only name others, of which those they name are unpacked.

    Raises:
        UnpackError: there is no mirror, or it does not have a package.
    """
    directory = cache_dir() / name
    with one_at_a_time(name):
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
                _unpack(Path(scratch), packages, through)
                (Path(scratch) / "root").replace(directory)
    return directory


def _unpack(scratch: Path, packages: Sequence[str], through: Sequence[str]) -> None:
    scratch.chmod(0o755)
    for made in ("lists/partial", "cache/archives/partial", "fetched", "root"):
        (scratch / made).mkdir(parents=True)
    releases = sorted({package.partition("/")[2] for package in (*packages, *through)})
    sources = scratch / "sources.list"
    sources.write_text(
        "".join(f"deb [signed-by={KEYRING}] {_mirror()} {release} main\n" for release in releases)
    )
    options = (
        *("-qq", "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"),
        *("-o", "APT::Sandbox::User=root"),
    )
    _run(["apt-get", *options, "update"])
    named = [name for package in through for name in _depends(package, options)]
    _run(["apt-get", *options, "download", *packages, *named], cwd=scratch / "fetched")
    for package in sorted((scratch / "fetched").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(scratch / "root")])
    shutil.rmtree(scratch / "fetched")


def _depends(package: str, options: Sequence[str]) -> list[str]:
    """Returns what a package of packages names, in its own release."""
    name, _, release = package.partition("/")
    said = _run(["apt-cache", *options, "depends", name])
    found = re.findall(r"^ *Depends: ([\w.+-]+)$", said, re.MULTILINE)
    return [f"{other}/{release}" for other in found]


def _mirror() -> str:
    """Returns the address of the Debian archive that this system's apt uses."""
    for path in (SOURCES / "sources.list.d/debian.sources", SOURCES / "sources.list"):
        if not path.exists():
            continue
        text = path.read_text()
        for pattern in (r"^URIs:\s*(\S+)", r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)"):
            if (found := re.search(pattern, text, re.MULTILINE)) is not None:
                return found[1]
    raise UnpackError(f"no Debian mirror in {SOURCES}: these tests need Debian's apt and a mirror")


def _run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-10:])
        raise UnpackError(f"{' '.join(command)} ended with {done.returncode}:\n{last_lines}")
    return done.stdout
