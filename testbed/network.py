"""One overlay network of flanneld and tunneld hosts in namespaces, on one real etcd.

    etcd 10.99.0.1 -- switch --+-- host 10.99.0.11 -- br0 <subnet>.1 -- container <subnet>.2
                               +-- host 10.99.0.12 -- ...

Hosts may stand on two links, with the switch as the router between them, and may have IPv6.

Every host is set up as its operator would: forwarding on, a bridge with the leased subnet, one
container behind it. Whatever else makes packets arrive is the daemon's doing.
"""

from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from testbed.etcd import Etcd
from testbed.exchange import json_lines
from testbed.flanneld.build import flanneld_binary
from testbed.netns import Place, Rig
from testbed.process import Process
from testbed.wait import wait_until

PREFIX: Final = "/coreos.com/network"
NETWORK: Final = ipaddress.IPv4Network("10.5.0.0/16")
UNDERLAY: Final = ipaddress.IPv4Network("10.99.0.0/24")
NETWORK_V6: Final = ipaddress.IPv6Network("fd00:10:5::/48")
UDP_PORT: Final = 8285
START_TIMEOUT_S: Final = 30.0

Kind = Literal["flanneld", "tunneld"]
Family = Literal[4, 6]


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the underlay: a bridge in the switch, whose first address is the switch's."""

    bridge: str
    ipv4: ipaddress.IPv4Network
    ipv6: ipaddress.IPv6Network


LINKS: Final = (
    Link("switch", UNDERLAY, ipaddress.IPv6Network("fd99::/64")),
    Link("switch2", ipaddress.IPv4Network("10.98.0.0/24"), ipaddress.IPv6Network("fd98::/64")),
)


class Host:
    """A host with its daemon, bridge and container."""

    def __init__(
        self,
        network: Network,
        name: str,
        kind: Kind,
        link: Link,
        number: int,
        options: tuple[str, ...],
    ) -> None:
        self.network = network
        self.name = name
        self.kind = kind
        """Which daemon `start` starts; may change while none runs."""
        self.link = link
        self.public_ip = link.ipv4[number]
        self.public_ipv6 = link.ipv6[int(str(number), 16)]
        self.options = options
        self.space = network.rig.namespace(name)
        self.container = network.rig.namespace(f"{name}c")
        self.subnet_file = self.space.directory / "subnet.env"
        self.daemon: Process | None = None
        self._starts = 0
        network.rig.link(
            *(network.switch, name, self.space, "eth0"),
            first_bridge=link.bridge,
            second_address=f"{self.public_ip}/{link.ipv4.prefixlen}",
        )
        self.space.run("ip", "route", "add", "default", "via", str(link.ipv4[1]))
        self.space.sysctl("net/ipv4/ip_forward", 1)
        if 6 in network.families:
            address = f"{self.public_ipv6}/{link.ipv6.prefixlen}"
            self.space.run("ip", "address", "add", address, "dev", "eth0", "nodad")
            self.space.run("ip", "-6", "route", "add", "default", "via", str(link.ipv6[1]))
            self.space.sysctl("net/ipv6/conf/all/forwarding", 1)

    def command(self) -> tuple[str, ...]:
        """Returns the command line of the daemon."""
        endpoint, masq = self.network.etcd.endpoint, self.network.ip_masq
        if self.kind == "flanneld":
            return (
                *(str(flanneld_binary()), "-v=1", f"-etcd-endpoints={endpoint}"),
                *(f"-etcd-prefix={PREFIX}", "-iface=eth0", f"-subnet-file={self.subnet_file}"),
                *(f"-ip-masq={'true' if masq else 'false'}", *self.options),
            )
        return (
            *(sys.executable, "-m", "tunneld", "run", "--iface", "eth0"),
            *("--etcd-endpoints", endpoint, "--etcd-prefix", PREFIX),
            *("--subnet-file", str(self.subnet_file)),
            *("--state-dir", str(self.space.directory / "state")),
            *("--control-socket", str(self.control_socket)),
            *(*(("--ip-masq",) if masq else ()), *self.options),
        )

    @property
    def control_socket(self) -> Path:
        return self.space.directory / "tunneld.sock"

    def ctl(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Runs a tunneld subcommand against this host's daemon."""
        return self.space.try_run(
            *(sys.executable, "-m", "tunneld", *argv),
            *("--control-socket", str(self.control_socket)),
        )

    def status(self) -> dict[str, Any]:
        done = self.ctl("status", "--json")
        if done.returncode != 0:
            msg = f"status of {self.name} ended with {done.returncode}: {done.stderr}"
            raise AssertionError(msg)
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def start(self) -> None:
        """Starts the daemon, without waiting for anything."""
        self._starts += 1
        self.daemon = self.space.start(
            *self.command(), log=self.space.directory / f"daemon-{self._starts}.log"
        )

    def end(self, number: int) -> int:
        """Sends the daemon a signal and waits for its end; returns the exit status."""
        daemon = self.running
        daemon.signal(number)
        return daemon.wait()

    def move(self) -> ipaddress.IPv4Address:
        """Takes another underlay address, and waits until its lease has it; returns it."""
        key, moved = self.lease_key, self.public_ip + 64
        self.space.run("ip", "address", "delete", f"{self.public_ip}/24", "dev", "eth0")
        self.space.run("ip", "address", "add", f"{moved}/24", "dev", "eth0")
        # The kernel took the default route away with the address it belonged to.
        self.space.run("ip", "route", "replace", "default", "via", str(self.network.outside))
        wait_until(
            lambda: json.loads(self.network.leases()[key])["PublicIP"] == str(moved),
            START_TIMEOUT_S,
            f"{moved} in the lease of {self.name}",
        )
        self.public_ip = moved
        return moved

    @property
    def running(self) -> Process:
        if self.daemon is None:
            msg = f"{self.name} was never started"
            raise AssertionError(msg)
        return self.daemon

    def wait_ready(self) -> None:
        """Waits for subnet.env and joins the bridge and the container to the leased subnet."""

        def ready() -> bool:
            if (status := self.running.exit_status) is not None:
                msg = f"{self.name} ended with {status}:\n{self.running.output()[-4000:]}"
                raise AssertionError(msg)
            return self.subnet_file.exists()

        try:
            wait_until(ready, START_TIMEOUT_S, f"subnet.env of {self.name}")
        except TimeoutError as error:
            error.add_note(self.running.output()[-4000:])
            raise
        mtu_bytes = int(self.subnet_env["FLANNEL_MTU"])
        self.space.bridge("br0", mtu_bytes=mtu_bytes)
        self.network.rig.link(
            *(self.space, "container", self.container, "eth0"),
            first_bridge="br0",
            mtu_bytes=mtu_bytes,
        )
        for family in self.network.families:
            self._address("br0", self.space, family, 1)
            self._address("eth0", self.container, family, 2)
            gateway = str(self.subnet_of(family)[1])
            self.container.run("ip", f"-{family}", "route", "add", "default", "via", gateway)

    def _address(self, device: str, space: Place, family: Family, number: int) -> None:
        subnet = self.subnet_of(family)
        nodad = ("nodad",) if family == 6 else ()
        address = f"{subnet[number]}/{subnet.prefixlen}"
        space.run("ip", "address", "add", address, "dev", device, *nodad)

    @property
    def subnet_env(self) -> dict[str, str]:
        lines = self.subnet_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(self.subnet_env["FLANNEL_SUBNET"]).network

    def subnet_of(self, family: Family) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """Returns the leased subnet of that family."""
        if family == 4:
            return self.subnet
        return ipaddress.IPv6Interface(self.subnet_env["FLANNEL_IPV6_SUBNET"]).network

    def container_address(self, family: Family) -> str:
        """Returns the container's address of that family."""
        return str(self.subnet_of(family)[2])

    @property
    def overlay_ip(self) -> ipaddress.IPv4Address:
        """The host's own address in the overlay: the base of its subnet."""
        return self.subnet[0]

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        return self.subnet[1]

    @property
    def container_ip(self) -> ipaddress.IPv4Address:
        return self.subnet[2]

    @property
    def lease_key(self) -> str:
        subnets = (self.subnet_of(family) for family in self.network.families)
        names = [f"{subnet.network_address}-{subnet.prefixlen}" for subnet in subnets]
        if 4 not in self.network.families:
            names.insert(0, "0.0.0.0-0")
        return f"{PREFIX}/subnets/{'&'.join(names)}"


class Network:
    """The switch with etcd, and the hosts around it."""

    def __init__(
        self,
        rig: Rig,
        *,
        ip_masq: bool = False,
        backend: Mapping[str, object] | None = None,
        families: tuple[Family, ...] = (4,),
    ) -> None:
        self.rig = rig
        self.ip_masq = ip_masq
        self.families = families
        self.switch = rig.namespace("switch")
        self.outside = UNDERLAY[1]
        """The switch's own address: etcd's, and that of the world outside the overlay."""
        self.switch.sysctl("net/ipv4/ip_forward", 1)
        if 6 in families:
            self.switch.sysctl("net/ipv6/conf/all/forwarding", 1)
        for link in LINKS:
            self.switch.switch(link.bridge, f"{link.ipv4[1]}/{link.ipv4.prefixlen}")
            if 6 in families:
                first = f"{link.ipv6[1]}/{link.ipv6.prefixlen}"
                self.switch.run("ip", "address", "add", first, "dev", link.bridge, "nodad")
        self.etcd = Etcd(self.switch, str(self.outside))
        self.etcd.start()
        config: dict[str, object] = {"Network": str(NETWORK)}
        if 4 not in families:
            config = {"EnableIPv4": False}
        if 6 in families:
            config |= {"EnableIPv6": True, "IPv6Network": str(NETWORK_V6)}
        config["Backend"] = dict(backend or {"Type": "udp"})
        self.etcd.put(f"{PREFIX}/config", json.dumps(config))
        self.hosts: list[Host] = []
        self._numbers = itertools.count(11)

    def add(self, name: str, *options: str, link: Link = LINKS[0]) -> Host:
        """Adds a host: f1, f2, ... run flanneld, t1, t2, ... tunneld. Waits for nothing."""
        kind: Kind = "flanneld" if name.startswith("f") else "tunneld"
        host = Host(self, name, kind, link, next(self._numbers), options)
        self.hosts.append(host)
        host.start()
        return host

    def host(self, name: str) -> Host:
        (host,) = (host for host in self.hosts if host.name == name)
        return host

    def of(self, kind: Kind) -> list[Host]:
        return [host for host in self.hosts if host.kind == kind]

    def leases(self) -> dict[str, bytes]:
        """Returns the lease table as the store holds it, byte for byte."""
        return self.etcd.everything(f"{PREFIX}/subnets/")

    def keys_ever_written(self) -> list[str]:
        """Returns the key of every change since the store began, deletions included."""
        last = "end-of-history"
        self.etcd.put(last, "")
        watch = self.switch.start(
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={self.etcd.endpoint}"),
            *("watch", "--prefix", "", "--rev=1", "-w", "json"),
        )

        def history() -> list[str]:
            keys = [
                base64.b64decode(event["kv"]["key"]).decode()
                for line in json_lines(watch)
                for event in line["Events"]
            ]
            return keys if keys and keys[-1] == last else []

        try:
            return wait_until(history, 10, "the history of the store")
        finally:
            watch.stop()

    def wait_connected(self) -> None:
        """Waits until the first container reaches every other one."""
        for host in self.hosts:
            host.wait_ready()
        for first, second in self.pairs():
            for family in self.families:
                wait_connected(first, second, family=family)

    def pairs(self) -> Iterator[tuple[Host, Host]]:
        """Yields every host with every other one."""
        return itertools.permutations(self.hosts, 2)


def pings(first: Host, second: Host, family: Family = 4, *, patience_s: int = 5) -> bool:
    """Sends one echo request from container to container; says whether the reply came.

    A daemon on its way may be held up for a second or more while other tests run.
    """
    address = second.container_address(family)
    return first.container.try_run("ping", "-c1", f"-W{patience_s}", address).returncode == 0


def wait_connected(
    first: Host, second: Host, timeout_s: float = START_TIMEOUT_S, *, family: Family = 4
) -> None:
    what = f"IPv{family} ping {first.name} -> {second.name}"
    try:
        wait_until(lambda: pings(first, second, family), timeout_s, what)
    except TimeoutError as error:
        for host in (first, second):
            error.add_note(f"{host.name}:\n{host.running.output()[-3000:]}")
        raise
