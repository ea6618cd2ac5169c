"""Real Docker daemons, of two Debian releases, each on a machine of its own.

Nothing of Docker has to be installed: its packages are unpacked into the cache, and a machine's
`/usr/local/bin` leads to them. Containers run an image of busybox, imported from a file.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, Literal

from testbed.debian import unpacked
from testbed.machine import Machine
from testbed.netns import Place, is_left_over
from testbed.process import Process
from testbed.wait import wait_until

Release = Literal["bookworm", "sid"]

RELEASES: Final[tuple[Release, ...]] = ("bookworm", "sid")
IMAGE: Final = "busybox"

# runc of Debian sid wants a newer C library than Debian 12 has; Docker of sid takes this one.
_PACKAGES: Final[dict[Release, tuple[str, ...]]] = {
    "bookworm": ("docker.io/bookworm", "containerd/bookworm", "runc/bookworm"),
    "sid": ("docker.io/sid", "docker-cli/sid", "containerd/sid", "runc/bookworm"),
}
_CGROUPS: Final = Path("/sys/fs/cgroup")


def package_dir(release: Release) -> Path:
    """Returns the directory with all files of Docker's packages, fetched first if need be."""
    return unpacked(f"docker-{release}", _PACKAGES[release])


def programs(release: Release) -> list[Path]:
    """Returns Docker's programs."""
    usr = package_dir(release) / "usr"
    found = [path for name in ("bin", "sbin") for path in (usr / name).iterdir()]
    return sorted(path for path in found if path.exists())


def image() -> Path:
    """Returns a tar file of a root directory with busybox and its commands."""
    path = unpacked("busybox", ("busybox-static/bookworm",)) / "image.tar"
    if not path.exists():
        scratch = path.with_suffix(f".{os.getpid()}")
        with tarfile.open(scratch, "w") as archive:
            archive.add(path.with_name("bin") / "busybox", "bin/busybox")
            for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
                _directory(archive, name)
            for name in _applets(path.with_name("bin") / "busybox"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
            user = b"root:x:0:0:root:/root:/bin/sh\n"
            entry = tarfile.TarInfo("etc/passwd")
            entry.size = len(user)
            archive.addfile(entry, io.BytesIO(user))
        scratch.replace(path)
    return path


def _directory(archive: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(entry)


def _applets(busybox: Path) -> list[str]:
    said = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True)
    return [name for name in said.stdout.split() if name != "busybox"]


class Container(Place):
    """A running container; programs of the machine can be started in its network namespace."""

    def __init__(self, docker: Docker, name: str) -> None:
        super().__init__(name, docker.machine.directory / name)
        self.docker = docker
        self.processes = docker.machine.processes
        self.directory.mkdir(parents=True, exist_ok=True)

    def command(self, *argv: str) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.pid), "--net", "--", *argv)

    @property
    def pid(self) -> int:
        """Of its first process; another one after a restart."""
        return int(self.inspect()["State"]["Pid"])

    @property
    def address(self) -> IPv4Address:
        (network,) = self.inspect()["NetworkSettings"]["Networks"].values()
        return IPv4Address(network["IPAddress"])

    @property
    def address_v6(self) -> IPv6Address:
        (network,) = self.inspect()["NetworkSettings"]["Networks"].values()
        return IPv6Address(network["GlobalIPv6Address"])

    def inspect(self) -> dict[str, Any]:
        """Returns what `docker inspect` says."""
        found: dict[str, Any] = json.loads(self.docker.ask(f"/containers/{self.name}/json"))
        return found

    def pings(self, address: IPv4Address) -> bool:
        """Sends one echo request with the container's own ping; says whether the reply came."""
        done = self.docker.machine.try_run(
            *("docker", "exec", self.name, "ping", "-c1", "-W1", str(address))
        )
        return done.returncode == 0


class Docker:
    """dockerd on a machine."""

    def __init__(self, machine: Machine, release: Release) -> None:
        self.machine = machine
        self.release = release
        self.options: tuple[str, ...] = ()
        """What `start` gives dockerd beside what keeps it apart from the machine's."""
        self.process: Process | None = None
        self.containers: list[Container] = []
        machine.install(programs(release))

    @property
    def cgroup(self) -> str:
        return self.machine.name

    def start(self, *options: str) -> None:
        """Starts dockerd with `options`, or with those of the last start, until it answers."""
        self.options = options or self.options
        self.machine.run("rm", "-f", "/run/docker.pid")
        process = self.process = self.machine.start(
            *("dockerd", "--cgroup-parent", f"/{self.cgroup}", *self.options),
            log=self.machine.directory / "dockerd.log",
        )

        def answers() -> bool:
            if process.exit_status is not None:
                msg = f"dockerd ended with {process.exit_status}:\n{process.output()[-4000:]}"
                raise AssertionError(msg)
            try:
                return self.ask("/_ping") == b"OK"
            except (FileNotFoundError, ConnectionError):
                return False

        wait_until(answers, 30.0, f"an answer of dockerd on {self.machine.name}")
        if not self.cli("image", "ls", "--quiet", IMAGE):
            self.cli("import", str(image()), IMAGE)

    def stop(self) -> None:
        """Ends dockerd, as its service is stopped; containers end with it."""
        if self.process is not None:
            self.process.stop(timeout_s=20.0)

    def close(self) -> None:
        """Removes all containers, ends dockerd, and what it left on the machine."""
        if self.process is not None and self.process.exit_status is None:
            running = self.cli("ps", "--all", "--quiet").split()
            if running:
                self.cli("rm", "--force", *running)
        self.stop()
        remove_cgroups(self.cgroup)

    @property
    def version(self) -> str:
        """Of the server, e.g. `20.10.24+dfsg1`."""
        return self.cli("version", "--format", "{{.Server.Version}}").strip()

    @property
    def version_number(self) -> tuple[int, ...]:
        found = re.match(r"[\d.]+", self.version)
        return tuple(int(part) for part in found[0].split(".")) if found else ()

    def ask(self, path: str) -> bytes:
        """Returns what dockerd's interface says; a command of Docker's takes 100 times as long.

        Raises:
            FileNotFoundError: dockerd has not made its socket yet.
            ConnectionError: nobody listens there.
            AssertionError: dockerd refuses.
        """
        connection = _Connection(self.machine.root / "run/docker.sock")
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status == HTTPStatus.OK, (path, answer.status, said)
        return said

    def cli(self, *argv: str, timeout_s: float = 60.0) -> str:
        """Runs a docker command; returns its stdout."""
        return self.machine.run("docker", *argv, timeout_s=timeout_s)

    def json(self, *argv: str) -> Any:
        return json.loads(self.cli(*argv))

    def run(self, name: str, *options: str, command: Iterable[str] = ()) -> Container:
        """Starts a container; without a command it only waits, and ends when it is told to."""
        wait = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done")
        argv = tuple(command) or wait
        self.cli("run", "--detach", "--name", name, *options, IMAGE, *argv)
        container = Container(self, name)
        self.containers.append(container)
        return container

    def remove(self, container: Container) -> None:
        """Removes a container, whether it runs or not."""
        self.cli("rm", "--force", container.name)
        self.containers.remove(container)


class _Connection(HTTPConnection):
    """HTTP over dockerd's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def remove_cgroups(name: str) -> None:
    """Removes the control groups that dockerd has made below its parent group."""
    for root in _hierarchies():
        top = root / name
        if not top.is_dir():
            continue
        # What is removed meanwhile, by Docker itself, is passed over.
        for group, _, _ in os.walk(top, topdown=False):
            wait_until(partial(_removed, Path(group)), 10.0, f"the end of what runs in {group}")


def _removed(group: Path) -> bool:
    """Removes a control group, unless a process is still in it; that one is ended."""
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    else:
        return True
    with suppress(FileNotFoundError):
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    return False


def remove_leftover_cgroups() -> None:
    """Removes those of test runs that were killed; their processes must have ended."""
    names = {path.name for root in _hierarchies() for path in root.glob("tnt-*")}
    for name in names:
        if is_left_over(name):
            remove_cgroups(name)


def _hierarchies() -> set[Path]:
    """Returns where groups are made: the hierarchies' roots, and this process's own groups."""
    roots = [_CGROUPS, *(path for path in _CGROUPS.glob("*") if path.is_dir())]
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = {line.split(":", 2)[2].lstrip("/") for line in lines}
    return {path for root in roots for name in own | {""} if (path := root / name).is_dir()}
