"""A host with systemd as its PID 1: systemd-nspawn on a root directory of its own, in a namespace.

The machine's /usr lies read-only under what `make install` made, so that nothing is downloaded and
the package is where an operator finds it. The network is a namespace of a rig; cgroups are its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from testbed.netns import NAME, Namespace
from testbed.process import Process
from testbed.wait import PATIENCE, wait_until

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_TIMEOUT_S: Final = 60.0

_MERGED: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_BORROWED: Final = ("os-release", "nsswitch.conf", "ld.so.cache", "alternatives", "dbus-1")
_USERS: Final = """\
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:100::/nonexistent:/usr/sbin/nologin
systemd-network:x:998:998::/:/usr/sbin/nologin
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
"""
_GROUPS: Final = """\
root:x:0:
tty:x:5:
messagebus:x:100:
docker:x:997:
systemd-network:x:998:
systemd-journal:x:999:
nogroup:x:65534:
"""


class SystemdMachine:
    """One booted host. What runs in `space` beside it is not its business."""

    def __init__(
        self,
        space: Namespace,
        *,
        installed: Path,
        borrowed: Iterable[tuple[Path, str]] = (),
        options: Iterable[str] = (),
    ) -> None:
        """Makes the root directory; does not boot.

        Args:
            space: the namespace that is the machine's network.
            installed: what `make install` put below its DESTDIR.
            borrowed: further directories of this machine, and where they are seen, read-only.
            options: of systemd-nspawn, for what needs more than tunneld.
        """
        self.space = space
        self.root = space.directory / "root"
        self._installed = installed
        self._borrowed = tuple(borrowed)
        self._options = tuple(options)
        self._process: Process | None = None
        self._pid = 0
        self._boots = 0
        _furnish(self.root, space.name, installed)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file of the machine, before its boot or after."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def enable(self, unit: str) -> None:
        """Does what `systemctl enable` does, on a host that is down."""
        link = self._wanted(unit)
        link.parent.mkdir(parents=True, exist_ok=True)
        own = self.root / "etc/systemd/system" / unit
        link.symlink_to(f"{'/etc' if own.exists() else '/usr/lib'}/systemd/system/{unit}")

    def disable(self, unit: str) -> None:
        """Takes `enable` back."""
        self._wanted(unit).unlink()

    def _wanted(self, unit: str) -> Path:
        return self.root / "etc/systemd/system/multi-user.target.wants" / unit

    @property
    def pid(self) -> int:
        """PID 1 of the machine, as seen from this machine."""
        return self._pid

    def boot(self) -> None:
        """Boots, and waits until all that is enabled has been started.

        Raises:
            AssertionError: a unit failed; the message holds what it said.
        """
        self.begin_boot()
        self.wait_booted()

    def begin_boot(self) -> None:
        """Boots, and waits only until systemd answers."""
        self._boots += 1
        cgroups = _make_cgroups(self.space.name)
        entering = "".join(f"echo $$ > {cgroup}/cgroup.procs; " for cgroup in cgroups)
        self._process = Process(
            ("sh", "-ec", f'{entering}exec "$@"', "sh", *self._nspawn()),
            self.space.directory / f"boot-{self._boots}.log",
            # Only the network's sysctls are the machine's own; the others are this machine's.
            {**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
        )
        self.space.processes.append(self._process)
        self._pid = wait_until(self._init, BOOT_TIMEOUT_S, f"PID 1 of {self.space.name}")
        wait_until(self._state, BOOT_TIMEOUT_S, f"systemd of {self.space.name}")

    def wait_booted(self) -> None:
        """Waits until all that is enabled has been started.

        Raises:
            AssertionError: a unit failed; the message holds what it said.
        """
        what = f"the end of the boot of {self.space.name}"
        wait_until(lambda: self._state() in ("running", "degraded"), BOOT_TIMEOUT_S, what)
        if failed := self.run("systemctl", "--failed", "--plain", "--no-legend"):
            said = self.run("journalctl", "--no-pager", "--boot", "--lines=60")
            msg = f"{self.space.name} is degraded:\n{failed}{said}"
            raise AssertionError(msg)

    def shut_down(self) -> None:
        """Shuts down in order, as `poweroff` would, and takes the cgroups away."""
        if self._process is not None:
            self._process.stop(timeout_s=30)
            self._process, self._pid = None, 0
        _remove_cgroups(self.space.name)

    def try_run(
        self, *argv: str, timeout_s: float = 60.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program on the machine as its root, whatever its exit status."""
        return subprocess.run(
            ("nsenter", f"--target={self._pid}", "--all", "--", *self._plain(argv)),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout_s * PATIENCE,
            check=False,
        )

    def run(self, *argv: str, timeout_s: float = 60.0, stdin: str | None = None) -> str:
        """Runs a program on the machine as its root; returns its stdout.

        Raises:
            AssertionError: it ended with something else than 0; the message holds its stderr.
        """
        done = self.try_run(*argv, timeout_s=timeout_s, stdin=stdin)
        if done.returncode != 0:
            msg = (
                f"{' '.join(argv)} on {self.space.name} ended with {done.returncode}:"
                f" {done.stdout}{done.stderr}"
            )
            raise AssertionError(msg)
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Returns a property of a unit, e.g. `MainPID` or `NRestarts`."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def is_active(self, unit: str) -> bool:
        return self.show(unit, "ActiveState") == "active"

    def wait_for_journal(self, unit: str, text: str, timeout_s: float = 20.0) -> None:
        """Waits until the journal of a unit holds `text`: it is written by another process."""
        what = f"{text!r} in the journal of {unit}"
        wait_until(lambda: text in self.journal(unit), timeout_s, what)

    def journal(self, unit: str) -> str:
        return self.try_run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout

    def host_pid(self, pid: int) -> int:
        """Returns the number that a process of the machine has on this machine."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                lines = status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                continue
            numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
            if numbers[1:] == [str(pid)] and _same_pid_space(status.parent, self._pid):
                return int(numbers[0])
        msg = f"{self.space.name} has no process {pid}"
        raise AssertionError(msg)

    def _nspawn(self) -> tuple[str, ...]:
        return (
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
            *(f"--directory={self.root}", f"--machine={self.space.name}", "--settings=no"),
            f"--overlay-ro=/usr:{self._installed / 'usr'}:/usr",
            *(f"--bind-ro={source}:{place}" for source, place in self._borrowed),
            f"--network-namespace-path=/run/netns/{self.space.name}",
            *("--capability=CAP_NET_ADMIN", "--console=pipe", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off", *self._options),
        )

    @staticmethod
    def _plain(argv: tuple[str, ...]) -> tuple[str, ...]:
        return ("env", "-i", "--chdir=/root", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *argv)

    def _init(self) -> int:
        """Returns PID 1 of the machine as seen from here; 0 while there is none."""
        process = self._process
        if process is None or process.exit_status is not None:
            msg = f"{self.space.name} did not boot:\n{process.output() if process else ''}"
            raise AssertionError(msg)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            # One of those that prepare the machine may have ended since.
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return child
        return 0

    def _state(self) -> str:
        """Returns `starting`, `running`, `degraded` ...; nothing before systemd answers."""
        self._init()  # fails when the machine has ended
        state = self.try_run("systemctl", "is-system-running").stdout.strip()
        # So systemctl calls it itself, while the program that will be systemd has done nothing yet.
        return "" if state == "offline" else state


def _furnish(root: Path, name: str, installed: Path) -> None:
    """Makes the part of a root directory that is a host's own."""
    for directory in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/log/journal"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for directory in _MERGED:
        if Path("/usr", directory).is_dir():
            (root / directory).symlink_to(f"usr/{directory}")
    etc = root / "etc"
    for entry in _BORROWED:
        source = Path("/etc", entry)
        if source.is_dir():
            shutil.copytree(source, etc / entry, symlinks=True)
        elif source.exists():
            shutil.copy(source, etc / entry)
    (etc / "passwd").write_text(_USERS)
    (etc / "group").write_text(_GROUPS)
    (etc / "hostname").write_text(f"{name}\n")
    (etc / "machine-id").write_text("")
    if (installed / "etc").is_dir():
        shutil.copytree(installed / "etc", etc, symlinks=True, dirs_exist_ok=True)
    # What udev's own rules do on a host; it does not run in a container.
    (etc / "tmpfiles.d").mkdir(exist_ok=True)
    (etc / "tmpfiles.d/udev.conf").write_text("z /dev/net/tun 0666 root root\n")
    units = etc / "systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")


def _same_pid_space(process: Path, pid: int) -> bool:
    try:
        return (process / "ns/pid").readlink() == Path(f"/proc/{pid}/ns/pid").readlink()
    except (FileNotFoundError, ProcessLookupError):
        return False


def remove_leftover_cgroups() -> None:
    """Removes the cgroups of machines whose test run is dead, once their namespaces are gone."""
    for hierarchy in _hierarchies():
        for name in [path.name for path in hierarchy.glob("tnt-*")]:
            match = NAME.match(name)
            if match is not None and not Path(f"/proc/{match['pid']}").exists():
                _remove_cgroups(name)


def _hierarchies() -> list[Path]:
    """Returns this process's cgroups in which systemd follows its services' processes."""
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind == "cgroup2":
            mounts[""] = Path(fields.split()[4])
        elif kind == "cgroup" and "name=systemd" in options:
            mounts["name=systemd"] = Path(fields.split()[4])
    own = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, name, path = line.split(":", 2)
        if name in mounts:
            own.append(mounts[name] / path.lstrip("/"))
    return own


def _make_cgroups(name: str) -> list[Path]:
    cgroups = [hierarchy / name for hierarchy in _hierarchies()]
    for cgroup in cgroups:
        cgroup.mkdir(exist_ok=True)
    return cgroups


def _remove_cgroups(name: str) -> None:
    """Removes the machine's cgroups; the kernel may need a moment after the last process."""
    for hierarchy in _hierarchies():
        cgroup = hierarchy / name

        def gone(cgroup: Path = cgroup) -> bool:
            for directory, _, _ in os.walk(cgroup, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    return False
            return True

        wait_until(gone, 10.0, f"the end of {cgroup}")
