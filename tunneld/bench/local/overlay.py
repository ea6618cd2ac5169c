"""Ways to join the containers of a pair of hosts, and what they have in common.

Each takes a built pair, joins its two hosts and attaches a container to each, with the MTU that
overlay gives its containers. Source: flannel's `pkg/backend/vxlan` for the kernel's device.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, ClassVar, Final

from tunneld.bench.local.pair import UNDERLAY_MTU_BYTES, Host, Pair
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.store import environment

READY_TIMEOUT_S: Final = 60.0


class Overlay(ABC):
    """One way to join the two hosts of a pair."""

    name: ClassVar[str]
    label: ClassVar[str]
    """In names of namespaces."""
    what: ClassVar[str]
    ipv6: ClassVar[bool] = False
    """Whether traffic goes by IPv6, inside and outside."""

    def __init__(
        self, directory: Path, options: tuple[str, ...] = (), number: int | None = None
    ) -> None:
        """`number` tells those of one kind apart that stand beside each other."""
        label = self.label if number is None else f"{self.label}{number}"
        self.pair = Pair(label, directory / label, ipv6=self.ipv6)
        self.options = options
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        """The tunnel's processes by the label of their host."""
        self.others: list[subprocess.Popen[bytes]] = []
        """What they need, and what is not counted as the tunnel."""

    @abstractmethod
    def start(self) -> None:
        """Joins the hosts and attaches the containers.

        Raises:
            LabError: a step failed; the message ends with the name of a log.
        """

    def stop(self) -> None:
        """Ends the tunnel's processes; the hosts stay."""
        namespaces.stop(list(self.processes.values()))
        namespaces.stop(self.others)

    def about(self) -> dict[str, Any]:
        """Returns what the raw figures say of it."""
        return {"what": self.what, "options": list(self.options)}

    @property
    def pids(self) -> list[int]:
        """The tunnel's processes on both hosts; `ip netns exec` becomes the program itself."""
        return [process.pid for process in self.processes.values()]

    def wait_connected(self) -> None:
        """Waits until the containers reach each other.

        Raises:
            LabError: they do not.
        """
        ping = ("ping", "-n", "-c", "1", "-W", "1", str(self.pair.target))
        command = namespaces.inside(self.pair.a.container, *ping)

        def answers() -> bool:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        if not namespaces.became_true(answers, READY_TIMEOUT_S):
            said = " | ".join(last_line(host) for host in self.pair.hosts)
            msg = f"bench: {self.name}: no ping passes; its daemons said last: {said}"
            raise LabError(msg)

    def _spawn(self, host: Host, *argv: str) -> None:
        log = host.directory / "daemon.log"
        process = namespaces.start(host.namespace, *argv, log=log, env=environment())
        self.processes[host.label] = process

    def _wait(self, host: Host, ready: Callable[[], bool]) -> None:
        """Waits for a daemon's word that it forwards."""

        def is_ready() -> bool:
            status = self.processes[host.label].poll()
            if status is not None:
                msg = f"bench: {self.name} on host {host.label} ended with {status}: "
                raise LabError(msg + last_line(host))
            return ready()

        if not namespaces.became_true(is_ready, READY_TIMEOUT_S):
            msg = f"bench: {self.name} on host {host.label} is not ready; it said last: "
            raise LabError(msg + last_line(host))

    def _attach_by_subnet_file(self, host: Host) -> None:
        lines = (host.directory / "subnet.env").read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        self.pair.attach(host, IPv4Interface(env["FLANNEL_SUBNET"]), int(env["FLANNEL_MTU"]))
        if self.ipv6:
            self.pair.attach_v6(host, IPv6Interface(env["FLANNEL_IPV6_SUBNET"]))


class KernelVxlan(Overlay):
    """The kernel's vxlan device as flanneld sets it up; no process takes part."""

    name = "kernel vxlan"
    label = "vxlan"
    what = "the kernel's vxlan device, set up as flanneld does: VNI 1, port 8472, static entries"

    _OVERHEAD_BYTES: Final = 50

    def start(self) -> None:
        for number, host in enumerate(self.pair.hosts, start=1):
            other = self.pair.hosts[2 - number]
            self._join(host, number, other)
            bridge = IPv4Interface(f"10.5.{number}.1/24")
            self.pair.attach(host, bridge, UNDERLAY_MTU_BYTES - self._OVERHEAD_BYTES)

    def _join(self, host: Host, number: int, other: Host) -> None:
        macs = ("02:00:5e:00:53:01", "02:00:5e:00:53:02")
        mac, other_mac = macs[number - 1], macs[2 - number]
        other_base = f"10.5.{3 - number}.0"
        in_host = ("ip", "-n", host.namespace)
        mtu = str(UNDERLAY_MTU_BYTES - self._OVERHEAD_BYTES)
        namespaces.run(
            *(*in_host, "link", "add", "flannel.1", "address", mac, "mtu", mtu),
            *("type", "vxlan", "id", "1", "local", str(host.address), "dev", "u0"),
            *("dstport", "8472", "nolearning"),
        )
        namespaces.run(*in_host, "address", "add", f"10.5.{number}.0/32", "dev", "flannel.1")
        namespaces.run(*in_host, "link", "set", "flannel.1", "up")
        namespaces.run(
            *(*in_host, "neighbour", "add", other_base, "lladdr", other_mac),
            *("dev", "flannel.1", "nud", "permanent"),
        )
        namespaces.run(
            *("bridge", "-n", host.namespace, "fdb", "add", other_mac, "dev", "flannel.1"),
            *("dst", str(other.address), "self", "permanent"),
        )
        namespaces.run(
            *(*in_host, "route", "add", f"{other_base}/24", "via", other_base),
            *("dev", "flannel.1", "onlink"),
        )


def last_line(host: Host, log: str = "daemon.log") -> str:
    """Returns what a message can hold of a log; the file goes with the hosts."""
    place = host.directory / log
    lines = place.read_text(errors="replace").splitlines() if place.exists() else []
    return lines[-1] if lines else "nothing"
