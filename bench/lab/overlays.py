"""What is measured: ways to join the containers of a pair of hosts.

Each takes a built pair, joins its two hosts and attaches a container to each, with the MTU that
overlay gives its containers. Source: flannel's `pkg/backend/vxlan` for the kernel's device.
"""

from __future__ import annotations

import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, ClassVar, Final

from bench.lab.topology import UNDERLAY_MTU_BYTES, Host, Pair
from tests.interop.flanneld.build import FLANNEL_VERSION, flanneld_binary
from tunneld.control.client import NotRunningError, request
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.store import environment

NETWORK: Final = "10.5.0.0/16"
NETWORK_V6: Final = "fd00:10:5::/48"
_READY_TIMEOUT_S: Final = 60.0
_FLANNEL_PREFIX: Final = "/coreos.com/network"


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

        if not namespaces.became_true(answers, _READY_TIMEOUT_S):
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

        if not namespaces.became_true(is_ready, _READY_TIMEOUT_S):
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


class FlannelUdp(Overlay):
    """The real flanneld with its udp backend, on an etcd on the first host."""

    name = "flannel udp"
    label = "flannel"
    what = f"the real flanneld {FLANNEL_VERSION} with its udp backend, leases in etcd"

    def start(self) -> None:
        endpoint = self._start_etcd()
        for host in self.pair.hosts:
            self._spawn(
                host,
                *(str(flanneld_binary()), "-iface=u0", f"-etcd-endpoints={endpoint}"),
                *(f"-etcd-prefix={_FLANNEL_PREFIX}", "-ip-masq=false"),
                f"-subnet-file={host.directory / 'subnet.env'}",
                *self.options,
            )
        for host in self.pair.hosts:
            self._wait(host, (host.directory / "subnet.env").exists)
            self._attach_by_subnet_file(host)

    def _start_etcd(self) -> str:
        host = self.pair.a
        client, peer = f"http://{host.address}:2379", f"http://{host.address}:2380"
        etcd = namespaces.start(
            host.namespace,
            *("etcd", "--name", "bench", "--data-dir", str(host.directory / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"bench={peer}"),
            log=host.directory / "etcd.log",
            env=environment(),
        )
        self.others.append(etcd)
        config = json.dumps({"Network": NETWORK, "Backend": {"Type": "udp"}})
        put = namespaces.inside(
            host.namespace,
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={client}", "put"),
            *(f"{_FLANNEL_PREFIX}/config", config),
        )

        def is_written() -> bool:
            return subprocess.run(put, capture_output=True, check=False).returncode == 0

        if not namespaces.became_true(is_written, _READY_TIMEOUT_S):
            msg = "bench: etcd takes no config; it said last: "
            raise LabError(msg + last_line(host, "etcd.log"))
        return client


class Tunneld(Overlay):
    """tunneld with its udp backend, leases in one SQLite file."""

    name = "tunneld"
    label = "tunneld"
    what = "tunneld of this tree with its udp backend, leases in SQLite"
    network: ClassVar[str] = NETWORK
    backend: ClassVar[str] = "udp"
    peers = 1
    """How many a daemon must know before it counts as ready."""

    @property
    def store(self) -> Path:
        return self.pair.directory / "store.db"

    def write_config(self) -> None:
        """Writes the network config, which makes the store."""
        members: dict[str, object] = {"Network": self.network}
        if self.ipv6:
            members |= {"EnableIPv6": True, "IPv6Network": NETWORK_V6}
        config = json.dumps(members | {"Backend": self.backend_config()})
        namespaces.run(*self._command("network", "set", "-"), stdin=config)

    def backend_config(self) -> dict[str, object]:
        """Returns what the network config says of the backend."""
        return {"Type": self.backend}

    def start(self) -> None:
        self.write_config()
        for host in self.pair.hosts:
            self._spawn(
                host,
                *self._command("run"),
                *("--iface", "u0", "--state-dir", str(host.directory / "state")),
                *("--subnet-file", str(host.directory / "subnet.env")),
                *("--control-socket", str(self._control_socket(host))),
                *self.options,
            )
        for host in self.pair.hosts:
            self._wait(host, lambda host=host: self._is_ready(host))  # type: ignore[misc]
            self._attach_by_subnet_file(host)

    def about(self) -> dict[str, Any]:
        status = self.status()
        kept = {name: status[name] for name in ("backend", "offloads") if name in status}
        return super().about() | kept

    def status(self) -> dict[str, Any]:
        """Returns what the first host's daemon says of itself."""
        said: dict[str, Any] = request(self._control_socket(self.pair.a), "status")
        return said

    def _command(self, *argv: str) -> tuple[str, ...]:
        tail = ("--store", f"sqlite:{self.store}", "--config", "/dev/null")
        return (sys.executable, "-P", "-m", "tunneld", *argv, *tail)

    def _control_socket(self, host: Host) -> Path:
        return host.directory / "tunneld.sock"

    def _is_ready(self, host: Host) -> bool:
        try:
            status = request(self._control_socket(host), "status")
        except NotRunningError:
            return False
        return status["state"] == "ready" and len(status["peers"]) == self.peers


def last_line(host: Host, log: str = "daemon.log") -> str:
    """Returns what a message can hold of a log; the file goes with the hosts."""
    place = host.directory / log
    lines = place.read_text(errors="replace").splitlines() if place.exists() else []
    return lines[-1] if lines else "nothing"


class TunneldVxlan(Tunneld):
    """The same with its vxlan backend in user space."""

    name = "tunneld vxlan"
    label = "tvxlan"
    what = "tunneld of this tree with its vxlan backend in user space, leases in SQLite"
    backend = "vxlan"


class TunneldIPv6(Tunneld):
    """The udp backend, IPv6 in IPv6."""

    name = "tunneld IPv6"
    label = "t6"
    what = "tunneld of this tree with its udp backend, IPv6 inside and outside, leases in SQLite"
    ipv6 = True


class TunneldVxlanIPv6(TunneldVxlan):
    """The vxlan backend, IPv6 in IPv6."""

    name = "tunneld vxlan IPv6"
    label = "tvxlan6"
    what = "tunneld of this tree with vxlan in user space, IPv6 inside and outside, SQLite"
    ipv6 = True


class TunneldHostGw(Tunneld):
    """No tunnel at all: what the kernel's routing alone makes of the same traffic."""

    name = "host-gw"
    label = "thgw"
    what = "tunneld of this tree with its host-gw backend: the kernel's routes, no tunnel"
    backend = "host-gw"


class TunneldHostGwIPv6(TunneldHostGw):
    """The same over IPv6."""

    name = "host-gw IPv6"
    label = "thgw6"
    what = "tunneld of this tree with its host-gw backend over IPv6: the kernel's routes, no tunnel"
    ipv6 = True
