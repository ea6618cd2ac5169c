"""A host with a file system of its own, so that it can be set up as a real one is.

A namespace's network, the programs of the machine, but a fresh `/run` and writable copies of
`/etc`, `/opt`, `/var`, `/usr/local` that vanish with it: packages can be configured, services
started at their usual places, and nothing of the machine is touched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from testbed.netns import Namespace, Place, run
from testbed.wait import wait_until
from tunneld.control.client import NotRunningError, request

SOURCE_TREE: Final = Path(__file__).resolve().parents[1]

_ENVIRONMENT: Final = (
    *("-i", "HOME=/root", "LC_ALL=C.UTF-8"),
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)
# pip's index and cache, and proxies, where the machine has some.
_OF_PIP: Final = re.compile(r"PIP_|(https?|no)_proxy$", re.IGNORECASE)
_COPIED: Final = ("etc", "opt", "var", "usr/local")

# Arguments: where to build; the directories to copy. All of it is in memory.
_BUILD: Final = """
set -e
own=$1; shift
mount -t tmpfs tmpfs "$own"
for name; do
    mkdir -p "$own/$name/upper" "$own/$name/work"
    mount -t overlay overlay "/$name" \
        -o "lowerdir=/$name,upperdir=$own/$name/upper,workdir=$own/$name/work"
done
mkdir "$own/cgroup" "$own/docker"
mount --rbind /sys/fs/cgroup "$own/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$own/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /var/lib/docker
mount --bind "$own/docker" /var/lib/docker
echo built
exec sleep infinity
"""


def wait_nothing_off(check: Callable[[], subprocess.CompletedProcess[str]]) -> str:
    """Waits until `check`, which runs `tunneld docker check`, finds nothing off.

    Where Docker has changed its rules, something is off until the daemon has answered that.

    Returns:
        What the check says.
    """
    done: list[subprocess.CompletedProcess[str]] = []

    def nothing_off() -> bool:
        done[:] = [check()]
        return done[0].returncode == 0

    try:
        wait_until(nothing_off, 20.0, "a check that finds nothing off", poll_s=0.1)
    except TimeoutError as error:
        error.add_note(done[0].stdout + done[0].stderr)
        raise
    return done[0].stdout


class Machine(Place):
    """The host around a namespace."""

    def __init__(self, space: Namespace) -> None:
        super().__init__(space.name, space.directory)
        self.space = space
        own = space.directory / "own"
        own.mkdir()
        self._holder = space.start(
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", _BUILD, "sh", str(own), *_COPIED),
            log=space.directory / "machine.log",
        )
        self._holder.wait_for_output("built")
        # The namespace ends what runs in it before it ends the holder.
        self.processes = space.processes

    @property
    def root(self) -> Path:
        """This host's file system as seen from outside; its Unix sockets can be connected to."""
        return Path(f"/proc/{self._holder.pid}/root")

    def tunneld_is_ready(self) -> bool:
        """Says whether a daemon answers at its usual place that it is ready."""
        try:
            status = request(self.root / "run/tunneld/tunneld.sock", "status")
        except NotRunningError:
            return False
        return bool(status["state"] == "ready")

    def wait_nothing_off(self, *options: str) -> str:
        """Waits until `tunneld docker check` finds nothing off; returns what it says."""
        check = partial(self.try_run, "tunneld", "docker", "check", *options)
        return wait_nothing_off(check)

    def command(self, *argv: str) -> tuple[str, ...]:
        pid = str(self._holder.pid)
        return ("nsenter", "--target", pid, "--net", "--mount", "--", "env", *_ENVIRONMENT, *argv)

    def run_connected(self, *argv: str, directory: Path, timeout_s: float = 120.0) -> str:
        """Runs a program on this host's files, but with the network of whoever runs the tests."""
        kept = [f"{k}={v}" for k, v in os.environ.items() if _OF_PIP.match(k)]
        pid = str(self._holder.pid)
        enter = ("nsenter", "--target", pid, "--mount", f"--wd={directory}", "--")
        return run(*enter, "env", *_ENVIRONMENT, *kept, *argv, timeout_s=timeout_s)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file of this host."""
        self.run("sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"', "sh", path, stdin=text)
        self.run("chmod", f"{mode:o}", path)

    def install(self, programs: Iterable[Path]) -> None:
        """Makes programs found by name, before those of the machine."""
        self.run("ln", "-sf", "--", *map(str, programs), "/usr/local/bin/")

    def hide(self, program: str) -> None:
        """Makes a program of the machine one that this host does not have."""
        path = self.run("sh", "-c", 'command -v "$1"', "sh", program).strip()
        self.run("mount", "--bind", "/dev/null", path)

    def install_tunneld(self) -> None:
        """Makes `tunneld` a command that runs this source tree."""
        self.write(
            "/usr/local/bin/tunneld",
            f'#!/bin/sh\nPYTHONPATH="{SOURCE_TREE}" exec "{sys.executable}" -P -m tunneld "$@"\n',
            0o755,
        )
