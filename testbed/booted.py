"""A network of booted hosts: machines with systemd on one switch, a real etcd beside them.

    etcd 192.0.2.1 -- switch --+-- machine 192.0.2.11 -- br0 <subnet>.1 -- container <subnet>.2
                               +-- machine 192.0.2.12 -- ...

On each machine a unit `container.service` makes the bridge and the container by subnet.env as soon
as the overlay is up, as Docker's would; which daemon brings the overlay is not said here.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from testbed.etcd import Etcd
from testbed.netns import Place, Rig
from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until

PREFIX: Final = "/coreos.com/network"
NETWORK: Final = ipaddress.IPv4Network("10.5.0.0/16")
UNDERLAY: Final = ipaddress.IPv4Network("192.0.2.0/24")
SUBNET_FILE: Final = "/run/flannel/subnet.env"
CONFIG: Final = 'etcd-endpoints = ["http://192.0.2.1:2379"]\n'
"""The daemon's options."""

_CONTAINER_UNIT: Final = f"""\
[Unit]
Description=A container behind a bridge
After=tunneld.service flanneld.service

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile={SUBNET_FILE}
ExecStart=/bin/sh -e /opt/container.sh
ExecStop=/usr/sbin/ip link delete br0
ExecStop=/usr/sbin/ip netns delete container

[Install]
WantedBy=multi-user.target
"""

_CONTAINER_SCRIPT: Final = """\
base=${FLANNEL_SUBNET%.*}
ip link add br0 mtu $FLANNEL_MTU type bridge
ip address add $FLANNEL_SUBNET dev br0
ip link set br0 up
ip netns add container
ip link add container mtu $FLANNEL_MTU type veth peer name eth0 netns container mtu $FLANNEL_MTU
ip link set container master br0 up
ip -n container link set lo up
ip -n container link set eth0 up
ip -n container address add $base.2/24 dev eth0
ip -n container route add default via $base.1
"""


class Container(Place):
    """The container of a machine, as seen from outside."""

    def __init__(self, machine: SystemdMachine) -> None:
        super().__init__(f"{machine.space.name} container", machine.space.directory)
        self.processes = machine.space.processes  # the rig ends them
        self._machine = machine

    def command(self, *argv: str) -> tuple[str, ...]:
        place = f"/proc/{self._machine.pid}/root/run/netns/container"
        return ("nsenter", f"--net={place}", "--", *argv)


class BootedHost:
    """A machine on the switch, with its container."""

    def __init__(
        self, name: str, machine: SystemdMachine, public_ip: ipaddress.IPv4Address
    ) -> None:
        self.name = name
        self.machine = machine
        self.public_ip = public_ip
        self.container = Container(machine)
        machine.write("/etc/systemd/system/container.service", _CONTAINER_UNIT)
        machine.write("/opt/container.sh", _CONTAINER_SCRIPT)
        machine.enable("container.service")

    @property
    def subnet_env(self) -> dict[str, str]:
        lines = self.machine.run("cat", SUBNET_FILE).splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(self.subnet_env["FLANNEL_SUBNET"]).network

    @property
    def container_ip(self) -> ipaddress.IPv4Address:
        return self.subnet[2]


class BootedNetwork:
    """The switch with etcd, and the machines around it."""

    def __init__(
        self, rig: Rig, *, installed: Path, borrowed: Iterable[tuple[Path, str]] = ()
    ) -> None:
        self.rig = rig
        self.hosts: list[BootedHost] = []
        self._installed = installed
        self._borrowed = tuple(borrowed)
        self.switch = rig.namespace("switch")
        self.switch.switch("switch", f"{UNDERLAY[1]}/{UNDERLAY.prefixlen}")
        self.etcd = Etcd(self.switch, str(UNDERLAY[1]))

    def start_store(self, backend: str = "udp", **members: object) -> None:
        """Starts etcd, and puts the network config there."""
        self.etcd.start()
        config = {"Network": str(NETWORK), **members, "Backend": {"Type": backend}}
        self.etcd.put(f"{PREFIX}/config", json.dumps(config))

    def add(self, name: str) -> BootedHost:
        """Makes a host; its machine is not booted yet."""
        space = self.rig.namespace(name)
        public_ip = UNDERLAY[11 + len(self.hosts)]
        self.rig.link(
            *(self.switch, f"to-{name}", space, "eth0"),
            first_bridge="switch",
            second_address=f"{public_ip}/{UNDERLAY.prefixlen}",
        )
        space.run("ip", "route", "add", "default", "via", str(UNDERLAY[1]))
        machine = SystemdMachine(space, installed=self._installed, borrowed=self._borrowed)
        host = BootedHost(name, machine, public_ip)
        self.hosts.append(host)
        return host

    def shut_down(self) -> None:
        for host in self.hosts:
            host.machine.shut_down()


def pings(first: BootedHost, second: BootedHost, *, patience_s: int = 5) -> bool:
    """Sends one echo request from container to container; says whether the reply came."""
    target = str(second.container_ip)
    return first.container.try_run("ping", "-c1", f"-W{patience_s}", target).returncode == 0


def wait_connected(first: BootedHost, second: BootedHost, timeout_s: float = 30.0) -> None:
    wait_until(lambda: pings(first, second), timeout_s, f"ping {first.name} -> {second.name}")


def configure(host: BootedHost) -> None:
    """Does what an operator does once on each host: options, and `systemctl enable`."""
    host.machine.write("/etc/tunneld/tunneld.toml", CONFIG)
    host.machine.enable("tunneld.service")
