"""Hosts with a container each, on one switch with an etcd, for faults to happen to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from testbed.etcd import Etcd
from testbed.netns import Namespace, Rig
from testbed.process import Process
from testbed.wait import PATIENCE, wait_until
from tests.chaos.judgement import Size
from tunneld.control.client import NotRunningError, request

PREFIX: Final = "/coreos.com/network"
SWITCH: Final = "192.0.2.1"
TTL: Final = "60s"
STATE_BYTES: Final = 1 << 20
TALKER: Final = Path(__file__).with_name("talker.py")


@dataclass(frozen=True, slots=True)
class Kind:
    """How packets move."""

    backend: str
    datapath: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.datapath}"

    @property
    def config(self) -> str:
        return json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": self.backend}})


KINDS: Final = (Kind("udp", "userspace"), Kind("vxlan", "userspace"), Kind("vxlan", "kernel"))


class Talker:
    """The traffic program of one container."""

    def __init__(self, space: Namespace, number: int) -> None:
        self._log = (space.directory / "talker.log").open("ab")
        self._popen = subprocess.Popen(
            space.command(sys.executable, "-I", str(TALKER), str(number)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def order(self, **order: Any) -> dict[str, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(order) + "\n")
        self._popen.stdin.flush()
        answer: dict[str, Any] = json.loads(self._popen.stdout.readline())
        return answer

    def close(self) -> None:
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        try:
            self._popen.wait(10 * PATIENCE)
        finally:
            self._popen.kill()
            self._popen.wait()
            if self._popen.stdout is not None:
                self._popen.stdout.close()
            self._log.close()


class ChaosHost:
    """A host, its container and its daemon, whose state directory is a disk of its own."""

    def __init__(self, rig: Rig, switch: Namespace, number: int, kind: Kind) -> None:
        self.number, self.kind = number, kind
        self.switch = switch
        self.space = rig.namespace(f"h{number}")
        self.inner = rig.namespace(f"c{number}")
        self.directory = self.space.directory
        self.address = f"192.0.2.{10 + number}"
        self.device = "eth0"
        self.daemon: Process | None = None
        self.subnet = ""
        self.plug()
        self.space.bridge("br0")
        rig.link(self.inner, "eth0", self.space, "veth0", second_bridge="br0")
        self._clock = self.directory / "clock"
        self._clock.write_text("0\n")
        (self.directory / "run").mkdir()
        self._mounts = self.space.start("unshare", "--mount", "sleep", "infinity")
        wait_until(self._has_own_mounts, what=f"a mount namespace of host {number}")
        self.in_mounts("mount", "--mkdir", "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "state",
                       str(self.directory / "state"))  # fmt: skip
        self._pipe = self.directory / "log.pipe"
        os.mkfifo(self._pipe)
        self.log = self.directory / "tunneld.log"
        self.log.touch()
        self.reader = self.space.start("sh", "-c", f"exec cat <>'{self._pipe}' >>'{self.log}'")

    def _has_own_mounts(self) -> bool:
        own = os.readlink("/proc/self/ns/mnt")
        return os.readlink(f"/proc/{self._mounts.pid}/ns/mnt") != own

    def in_mounts(self, *argv: str, check: bool = True) -> str:
        """Runs a program where the state directory's disk is mounted."""
        return self.space.run(*self._with_mounts(), *argv, check=check)

    def _with_mounts(self) -> tuple[str, ...]:
        return ("nsenter", f"--mount=/proc/{self._mounts.pid}/ns/mnt", "--")

    def ip(self, *argv: str, check: bool = True) -> str:
        return self.space.run("ip", *argv, check=check)

    def plug(self) -> None:
        """Makes the underlay interface; the address comes last, as from a DHCP client."""
        port = f"p{self.number}"
        self.switch.run(
            *("ip", "link", "add", port, "type", "veth"),
            *("peer", "name", self.device, "netns", self.space.name),
        )
        self.switch.run("ip", "link", "set", port, "master", "sw0", "up")
        self.ip("link", "set", self.device, "up")
        self.connect()

    def connect(self) -> None:
        """Puts back address and default route, as whoever manages the interface does."""
        self.ip("address", "replace", f"{self.address}/24", "dev", self.device)
        self.ip("route", "replace", "192.0.2.0/24", "dev", self.device, "src", self.address)
        self.ip("route", "replace", "default", "via", SWITCH, "dev", self.device)

    def start(self, clock: Path) -> None:
        foreign = ("TUNNELD_", "FLANNELD_", "NOTIFY_SOCKET")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        environment = {
            **kept,
            "TUNNELD_CONFIG": "/dev/null",
            "LD_PRELOAD": str(clock),
            "CLOCK_SHIFT": str(self._clock),
        }
        self.daemon = self.space.start(
            *self._with_mounts(),
            *(sys.executable, "-P", "-m", "tunneld", "run"),
            *("--etcd-endpoints", f"http://{SWITCH}:2379"),
            *("--state-dir", str(self.directory / "state")),
            *("--subnet-file", str(self.subnet_file)),
            *("--control-socket", str(self.directory / "tunneld.sock")),
            *("--datapath", self.kind.datapath),
            *("--lease-ttl", TTL),
            log=self._pipe,
            env=environment,
        )

    @property
    def subnet_file(self) -> Path:
        return self.directory / "run" / "subnet.env"

    @property
    def running(self) -> Process:
        assert self.daemon is not None
        return self.daemon

    def status(self) -> dict[str, Any]:
        """Returns the daemon's status; nothing while it cannot answer."""
        try:
            found: dict[str, Any] = request(self.directory / "tunneld.sock", "status", timeout_s=30)
        except (NotRunningError, OSError, ValueError):
            return {}
        return found

    def is_ready(self) -> bool:
        """Says whether the daemon has no complaint; fails where it has ended."""
        if self.running.exit_status is not None:
            raise AssertionError(f"host {self.number} ended: {self.said()[-3000:]}")
        return bool(self.status().get("state") == "ready")

    def forwards(self) -> bool:
        """Says whether the daemon is at work, perhaps with something to complain of."""
        return self.status().get("state") in ("ready", "degraded")

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def has_told_its_subnet(self) -> bool:
        """Says whether subnet.env holds the subnet that the host began with."""
        if not self.subnet_file.exists():
            return False
        return f"FLANNEL_SUBNET={self.subnet}\n" in self.subnet_file.read_text()

    def attach(self) -> None:
        """Gives bridge and container the addresses of the lease."""
        lines = self.subnet_file.read_text().splitlines()
        facts = dict(line.split("=", 1) for line in lines)
        gateway = facts["FLANNEL_SUBNET"]
        self.subnet = gateway
        for space, device, address in (
            (self.space, "br0", gateway),
            (self.inner, "eth0", gateway.replace(".1/", ".2/")),
        ):
            space.run("ip", "link", "set", device, "mtu", facts["FLANNEL_MTU"])
            space.run("ip", "address", "add", address, "dev", device)
        self.inner.run("ip", "route", "add", "default", "via", gateway.partition("/")[0])

    @property
    def inner_address(self) -> str:
        return self.subnet.partition("/")[0].removesuffix(".1") + ".2"

    def set_clock(self, shift_s: int) -> None:
        self._clock.write_text(f"{shift_s}\n")

    def stop_log_reader(self) -> None:
        """Stops it with the pipe full, as a log shipper that hangs."""
        self.reader.pause()
        pipe = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(pipe, b"(filled up)\n")
        finally:
            os.close(pipe)

    def size(self) -> Size:
        pid = self.running.pid
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return Size(
            pid=pid,
            memory_kib=int(fields["VmRSS"].split()[0]),
            descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            threads=int(fields["Threads"]),
        )

    def left_behind(self) -> list[str]:
        """Returns what a stopped daemon has left on the host."""
        links = [line.split()[1] for line in self.ip("-o", "link").splitlines()]
        found = [link for link in links if link.startswith("flannel")]
        found += self.ip("route", "show", "table", "all", "proto", "116").splitlines()
        found += [line for line in self.space.run("nft", "list", "tables").splitlines()
                  if "tunneld" in line]  # fmt: skip
        return found


class Site:
    """All hosts, the store, and what is between them."""

    def __init__(self, rig: Rig, kind: Kind, size: int, clock: Path) -> None:
        self.kind = kind
        self.clock = clock
        self.rig = rig
        self.switch = rig.namespace("sw")
        self.switch.switch("sw0", f"{SWITCH}/24")
        self.etcd = Etcd(self.switch, SWITCH)
        self.etcd.start()
        self.configure()
        self.hosts = [ChaosHost(rig, self.switch, n + 1, kind) for n in range(size)]
        self.talkers: dict[int, Talker] = {}
        self.snapshot = rig.directory / "snapshot.db"

    def configure(self) -> None:
        self.etcd.put(f"{PREFIX}/config", self.kind.config)

    def start(self) -> None:
        """Starts daemons and traffic; returns once every host is without complaint."""
        for host in self.hosts:
            host.start(self.clock)
        self.wait_ready()
        for host in self.hosts:
            host.attach()
            self.talkers[host.number] = Talker(host.inner, host.number)
        for number, talker in self.talkers.items():
            others = {h.number: h.inner_address for h in self.hosts if h.number != number}
            talker.order(do="talk", peers=others)
        self.etcd.ctl("snapshot", "save", str(self.snapshot))

    def wait_ready(self) -> None:
        for host in self.hosts:
            try:
                wait_until(host.is_ready, 20.0, f"host {host.number} without complaint", 0.05)
            except TimeoutError as error:
                error.add_note(json.dumps(host.status().get("problems")))
                error.add_note(host.said()[-4000:])
                raise

    def reports(self, since_s: float) -> dict[int, dict[str, Any]]:
        return {n: talker.order(do="report", since=since_s) for n, talker in self.talkers.items()}

    def leases(self) -> dict[str, str]:
        """Returns who holds which subnet, as the store has it."""
        found = self.etcd.everything(f"{PREFIX}/subnets/")
        return {key: json.loads(value)["PublicIP"] for key, value in found.items()}

    def replace_store(self, prepare: bool) -> None:
        """Puts an empty store in place of the one there is, or one from the snapshot."""
        self.etcd.kill()
        shutil.rmtree(self.etcd.data_dir)
        if prepare:
            self.switch.run(
                *("env", "ETCDCTL_API=3", "etcdctl", "snapshot", "restore", str(self.snapshot)),
                *("--name", "one", "--data-dir", str(self.etcd.data_dir)),
                *("--initial-cluster", f"one=http://{SWITCH}:2380"),
                *("--initial-advertise-peer-urls", f"http://{SWITCH}:2380"),
            )
        self.etcd.start()
        if not prepare:
            self.configure()

    @contextmanager
    def store_hidden_from(self, hosts: list[ChaosHost]) -> Iterator[None]:
        """Drops what these hosts say to the store, silently, while the block runs."""
        sources = ", ".join(host.address for host in hosts)
        self.switch.run("nft", "add", "table", "ip", "away")
        try:
            self.switch.run(
                *("nft", "add", "chain", "ip", "away", "i"),
                "{ type filter hook input priority 0; }",
            )
            rule = f"ip saddr {{ {sources} }} tcp dport 2379 drop"
            self.switch.run("nft", "add", "rule", "ip", "away", "i", rule)
            yield
        finally:
            self.switch.run("nft", "delete", "table", "ip", "away")

    def stop(self) -> list[str]:
        """Ends all daemons; returns what they have left, and those that did not end well."""
        found = []
        for host in self.hosts:
            status = host.running.stop()
            if status != 0:
                found.append(f"host {host.number} ended with {status}: {host.said()[-2000:]}")
            found += [f"host {host.number} left {thing}" for thing in host.left_behind()]
        return found

    def close(self) -> None:
        for talker in self.talkers.values():
            talker.close()


def built_clock(directory: Path) -> Path:
    """Builds what lets a daemon see another time of day; returns the library to preload."""
    library = directory / "clock.so"
    source = Path(__file__).with_name("clock.c")
    argv = ("cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl")
    subprocess.run(argv, check=True, capture_output=True)
    return library


def pass_time(seconds: float) -> None:
    """Lets a fault last."""
    time.sleep(seconds)
