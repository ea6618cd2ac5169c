"""Network namespaces for tests: a rig of named namespaces, links and bridges, removed as a whole.

Namespaces are called `tnt-<suite>-<pid>-<label>`; `remove_leftovers` takes away those whose
process is dead, so that a killed run does not stay for ever.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.process import Process
from testbed.wait import PATIENCE, wait_until

NAME = re.compile(r"^tnt-[a-z0-9]+-(?P<pid>\d+)(?:x\d+)?-[A-Za-z0-9.-]+$")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


def run(*argv: str, check: bool = True, timeout_s: float = 30.0, stdin: str = "") -> str:
    """Runs a program in the caller's namespace; returns its stdout.

    Raises:
        AssertionError: it ended with something else than 0; the message holds its stderr.
        TimeoutExpired: it went on for `timeout_s` times `PATIENCE`.
    """
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=timeout_s * PATIENCE, check=False
    )
    if check and done.returncode != 0:
        msg = f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}"
        raise AssertionError(msg)
    return done.stdout


class Place(ABC):
    """Where programs run: a network namespace, perhaps with more of its own around them."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        """For logs and state of what runs in here."""
        self.processes: list[Process] = []

    @abstractmethod
    def command(self, *argv: str) -> tuple[str, ...]:
        """Returns the command line that runs `argv` in here."""

    def run(self, *argv: str, check: bool = True, timeout_s: float = 30.0, stdin: str = "") -> str:
        return run(*self.command(*argv), check=check, timeout_s=timeout_s, stdin=stdin)

    def try_run(
        self, *argv: str, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` to its end, whatever its exit status."""
        return subprocess.run(
            self.command(*argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s * PATIENCE,
            check=False,
            env=None if env is None else dict(env),
        )

    def wait_for_answer(self, address: str) -> None:
        """Waits until an address answers a ping: what is sent while links come up may be lost."""

        def answers() -> bool:
            return self.try_run("ping", "-c", "1", "-W", "1", address).returncode == 0

        wait_until(answers, 20.0, f"an answer of {address} in {self.name}")

    def start(
        self, *argv: str, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """Starts a program that the rig ends at the latest."""
        if log is None:
            log = self.directory / f"{Path(argv[0]).name}-{next(_numbers)}.log"
        process = Process(self.command(*argv), log, env)
        self.processes.append(process)
        return process

    def sysctl(self, name: str, value: int | str) -> None:
        """Sets e.g. `net/ipv4/ip_forward` in here."""
        self.run("sh", "-c", f"echo {value} > /proc/sys/{name}")

    def add_ipv6(self, address: str, device: str) -> None:
        """Adds an IPv6 address with its length, unless it is there, and waits until it is reached.

        The kernel takes what is sent to an address as its own only a moment after it has it.
        """
        self.run("ip", "address", "replace", address, "dev", device, "nodad")
        route = ("ip", "-6", "route", "get", address.partition("/")[0])
        reached = partial(self.run, *route, check=False)
        wait_until(lambda: reached().startswith("local "), what=f"{address} of {self.name}")

    def bridge(self, name: str, address: str = "", mtu_bytes: int = 1500) -> None:
        self.run("ip", "link", "add", name, "mtu", str(mtu_bytes), "type", "bridge")
        if address:
            self.run("ip", "address", "add", address, "dev", name)
        self.run("ip", "link", "set", name, "up")

    def switch(self, name: str, address: str) -> None:
        """Makes a bridge that keeps its Ethernet address; it has a carrier once it has a port.

        Left alone a bridge takes the lowest address of its ports: each port that is added may
        change it, and whoever has resolved the old one talks to nobody for a while.
        """
        self.bridge(name, address)
        own = b"\x02\x00" + next(_numbers).to_bytes(4, "big")
        self.run("ip", "link", "set", name, "address", own.hex(":"))


class Namespace(Place):
    """One network namespace of a rig."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        run("ip", "netns", "add", name)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, *argv: str) -> tuple[str, ...]:
        """Returns the command line that runs `argv` in here; `nsenter` keeps the mounts."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "--", *argv)

    def pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]


@contextmanager
def inside(space: Namespace) -> Iterator[None]:
    """Moves this thread, and what it starts meanwhile, into a namespace, and back."""
    with (
        open("/proc/thread-self/ns/net", "rb") as home,
        open(f"/run/netns/{space.name}", "rb") as there,
    ):
        _set_namespace(there.fileno(), space.name)
        try:
            yield
        finally:
            _set_namespace(home.fileno(), "the namespace of before")


def _set_namespace(fd: int, name: str) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns to {name}")


class Rig:
    """A set of namespaces that vanish together, whatever happened inside."""

    def __init__(self, suite: str, directory: Path) -> None:
        self.prefix = f"tnt-{suite}-{os.getpid()}x{next(_numbers)}"
        self.directory = directory
        self.namespaces: dict[str, Namespace] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def namespace(self, label: str) -> Namespace:
        directory = self.directory / label
        directory.mkdir(parents=True, exist_ok=True)
        space = Namespace(f"{self.prefix}-{label}", directory)
        self.namespaces[label] = space
        return space

    def link(
        self,
        first: Namespace,
        first_device: str,
        second: Namespace,
        second_device: str,
        *,
        first_address: str = "",
        second_address: str = "",
        first_bridge: str = "",
        second_bridge: str = "",
        mtu_bytes: int = 1500,
    ) -> None:
        """Joins two namespaces with a veth pair; a bridge enslaves the end on its side.

        The pair carries packets when this returns.
        """
        run(
            *("ip", "link", "add", first_device, "netns", first.name, "mtu", str(mtu_bytes)),
            *("type", "veth", "peer", "name", second_device, "netns", second.name),
            *("mtu", str(mtu_bytes)),
        )
        ends = (
            (first, first_device, first_address, first_bridge),
            (second, second_device, second_address, second_bridge),
        )
        for space, device, address, bridge in ends:
            if bridge:
                space.run("ip", "link", "set", "dev", device, "master", bridge)
            if address:
                space.run("ip", "address", "add", address, "dev", device)
            space.run("ip", "link", "set", "dev", device, "up")
        for space, device, _, _ in ends:
            what = f"{device} of {space.name} being up"
            wait_until(partial(_is_operational, space.name, device), what=what)

    def close(self) -> None:
        for space in self.namespaces.values():
            for process in reversed(space.processes):
                process.stop()
        for space in self.namespaces.values():
            remove(space.name)
        self.namespaces.clear()


def _is_operational(name: str, device: str) -> bool:
    """Says whether a device is at work, which the kernel sees to a moment after it was set up.

    Until then it drops what it is given.
    """
    return " state UP " in run("ip", "-netns", name, "-oneline", "link", "show", "dev", device)


def remove(name: str) -> None:
    """Ends what runs in a namespace, and what that has started elsewhere, and deletes it."""

    def empty() -> bool:
        pids = [int(pid) for pid in run("ip", "netns", "pids", name, check=False).split()]
        for pid in _with_descendants(pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not pids

    wait_until(empty, 10.0, f"the end of all processes in {name}")
    run("ip", "netns", "delete", name)


def _with_descendants(pids: list[int]) -> set[int]:
    """Returns processes with all those they have started: a container is in its own namespace."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, after_name = path.read_text().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(path.parent.name)] = int(after_name.split()[1])
    found: set[int] = set()
    added = set(pids)
    while added:
        found |= added
        added = {pid for pid, parent in parents.items() if parent in added} - found
    return found


def remove_leftovers() -> None:
    """Removes namespaces of test runs whose process is dead."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if is_left_over(name):
            remove(name)


def is_left_over(name: str) -> bool:
    """Says whether what bears this name was made by a test run whose process is dead."""
    match = NAME.match(name)
    return match is not None and not Path(f"/proc/{match['pid']}").exists()
