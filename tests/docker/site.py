"""Docker hosts on one switch, whose containers tunneld joins.

    etcd 10.99.0.1 -- switch --+-- host 10.99.0.11 -- docker0 | br-overlay <subnet>.1 -- c1
                               +-- host 10.99.0.12 -- ...                             -- c2

A host is set up as its operator would, by the commands an operator would give; nothing of the
firewall is done here. There are two ways to put containers on the leased subnet: `bip`, options
for dockerd, and `network`, a network of Docker's own.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Final, Literal

from testbed import network as interop
from testbed.docker import Container, Docker, Release
from testbed.etcd import Etcd
from testbed.exchange import start_traffic
from testbed.machine import Machine
from testbed.netns import Place, Rig
from testbed.probe import Probe
from testbed.process import Process
from testbed.wait import wait_until

PREFIX: Final = "/coreos.com/network"
OVERLAY: Final = IPv4Network("10.5.0.0/16")
OVERLAY_V6: Final = IPv6Network("fd00:10:5::/48")
UNDERLAY: Final = IPv4Network("10.99.0.0/24")
UNDERLAY_V6: Final = IPv6Network("fd99::/64")
SUBNET_FILE: Final = "/run/flannel/subnet.env"
OPTIONS_FILE: Final = "/run/docker_opts.env"
START_TIMEOUT_S: Final = 30.0
MARGIN_TIMEOUT_S: Final = 10.0
"""How long a test waits for what is expected within a second."""

Way = Literal["bip", "network"]
Rules = Literal["nft", "legacy"]
"""What Docker and the operator use: nftables, also behind iptables, or the older iptables alone."""

Masquerader = Literal["tunneld", "docker"]
Protocol = Literal["tcp", "udp"]

_TRAFFIC: Final = Path(interop.__file__).with_name("traffic.py")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a site is made of."""

    release: Release
    way: Way
    rules: Rules
    masquerader: Masquerader
    """Who hides containers behind their host's address when they ask the world outside."""
    size: int

    def __str__(self) -> str:
        parts = (self.release, self.way, self.rules, f"{self.masquerader}masq", str(self.size))
        return "-".join(parts)


class Host:
    """A machine with dockerd, with tunneld's daemon unless it is there to compare with."""

    def __init__(self, site: Site, name: str, address: IPv4Address) -> None:
        self.site = site
        self.name = name
        self.address = address
        space = site.rig.namespace(name)
        site.rig.link(
            *(site.switch, name, space, "eth0"),
            first_bridge="switch",
            second_address=f"{address}/{UNDERLAY.prefixlen}",
        )
        space.run("ip", "route", "add", "default", "via", str(site.outside))
        if 6 in site.families:
            self.address_v6 = UNDERLAY_V6[int(address) & 0xFF]
            place = f"{self.address_v6}/{UNDERLAY_V6.prefixlen}"
            space.run("ip", "address", "add", place, "dev", "eth0", "nodad")
        self.machine = Machine(space)
        if site.kind.rules == "legacy":
            for tool in ("iptables", "ip6tables"):
                self.machine.run("update-alternatives", "--set", tool, f"/usr/sbin/{tool}-legacy")
            self.machine.hide("nft")
        self.machine.install_tunneld()
        self.docker = Docker(self.machine, site.kind.release)
        self.daemon: Process | None = None
        self.network: tuple[str, ...] = ()
        """Options of `docker run` that put a container on the leased subnet."""

    def start_tunneld(self) -> None:
        """Starts the daemon, and waits until it forwards."""
        daemon = self.daemon = self.machine.start(
            *("tunneld", "run", "--iface", "eth0"),
            f"--ip-masq={'true' if self.site.kind.masquerader == 'tunneld' else 'false'}",
            *("--etcd-endpoints", self.site.etcd.endpoint, "--etcd-prefix", PREFIX),
            log=self.machine.directory / "tunneld.log",
        )

        def ready() -> bool:
            if daemon.exit_status is not None:
                msg = f"tunneld ended with {daemon.exit_status}:\n{daemon.output()[-4000:]}"
                raise AssertionError(msg)
            return self.machine.tunneld_is_ready()

        wait_until(ready, START_TIMEOUT_S, f"tunneld of {self.name}", poll_s=0.1)

    def stop_tunneld(self) -> None:
        if self.daemon is not None:
            assert self.daemon.stop() == 0, self.daemon.output()[-2000:]

    def set_up(self, *docker_options: str) -> None:
        """Brings up tunneld and Docker, in the order that the site's way asks for."""
        if self.site.kind.way == "bip":
            self.start_tunneld()
            self.machine.run(
                "tunneld", "docker-opts", *(("-6",) if 6 in self.site.families else ())
            )
            said = dict(line.split("=", 1) for line in self.file(OPTIONS_FILE).splitlines())
            self.docker.start(*said["DOCKER_OPTS"].strip('"').split(), *docker_options)
        else:
            self.docker.start(*docker_options)
            self.start_tunneld()
            self.machine.run("tunneld", "docker", "network", "overlay")
            self.network = ("--network", "overlay")

    def file(self, path: str) -> str:
        return self.machine.run("cat", path)

    @property
    def subnet(self) -> IPv4Network:
        env = dict(line.split("=", 1) for line in self.file(SUBNET_FILE).splitlines())
        return ipaddress.IPv4Interface(env["FLANNEL_SUBNET"]).network

    @property
    def forward_policy(self) -> str:
        """What happens to a forwarded packet that no rule of iptables decides on."""
        return self.machine.run("iptables", "-w", "-S", "FORWARD").splitlines()[0].split()[-1]

    def container(self, name: str, *options: str) -> Container:
        """Starts a container on the leased subnet, which comes back when dockerd does."""
        return self.docker.run(name, "--restart", "always", *self.network, *options)

    def close(self) -> None:
        self.docker.close()


class Site:
    """The switch with etcd, the hosts around it, and a container on each."""

    def __init__(self, rig: Rig, kind: Kind, families: tuple[Literal[4, 6], ...] = (4,)) -> None:
        self.rig = rig
        self.kind = kind
        self.families = families
        self.switch = rig.namespace("switch")
        self.outside = UNDERLAY[1]
        """The switch's own address: etcd's, and that of the world outside the overlay."""
        self.switch.switch("switch", f"{self.outside}/{UNDERLAY.prefixlen}")
        self.etcd = Etcd(self.switch, str(self.outside))
        self.etcd.start()
        config: dict[str, object] = {"Backend": {"Type": "udp"}}
        config |= {"Network": str(OVERLAY)} if 4 in families else {"EnableIPv4": False}
        if 6 in families:
            config |= {"EnableIPv6": True, "IPv6Network": str(OVERLAY_V6)}
        self.etcd.put(f"{PREFIX}/config", json.dumps(config))
        self.hosts: list[Host] = []
        self.containers: dict[str, Container] = {}
        """The one of each host, by the host's name."""

    def add(self, name: str) -> Host:
        host = Host(self, name, UNDERLAY[11 + len(self.hosts)])
        self.hosts.append(host)
        return host

    def set_up(self) -> None:
        """Joins the hosts; the last one's dockerd keeps containers running when it restarts."""
        for number in range(1, self.kind.size + 1):
            self.add(f"h{number}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._set_up, self.hosts))
        self.wait_connected()

    def _set_up(self, host: Host) -> None:
        host.set_up(*(("--live-restore",) if host is self.hosts[-1] else ()))
        self.containers[host.name] = host.container(f"c-{host.name}")

    def close(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Host.close, self.hosts))

    @property
    def pairs(self) -> list[tuple[Host, Host]]:
        return [(a, b) for a in self.hosts for b in self.hosts if a is not b]

    def pings(self, first: Host, second: Host) -> bool:
        return self.containers[first.name].pings(self.containers[second.name].address)

    def wait_connected(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Waits until every container reaches every other one."""
        for first, second in self.pairs:
            what = f"ping {first.name} -> {second.name}"
            try:
                wait_until(partial(self.pings, first, second), timeout_s, what)
            except TimeoutError as error:
                for host in (first, second):
                    error.add_note(situation(host))
                raise

    def probe(self, first: Host, second: Host) -> Probe:
        """Starts numbered probes between the containers of two hosts."""
        return Probe(*(End(host.name, self.containers[host.name]) for host in (first, second)))


class End:
    """A container that sends or receives probes."""

    def __init__(self, name: str, container: Container) -> None:
        self.name = name
        self.container = container
        self.container_ip = container.address


@contextmanager
def answering(place: Place, port: int) -> Iterator[None]:
    """Answers questions on a port of `place`, by TCP and UDP."""
    process = start_traffic(place, "tell-sources", port)
    process.wait_for_output("listening")
    try:
        yield
    finally:
        process.stop()


def ask(
    place: Place,
    protocol: Protocol,
    address: IPv4Address,
    port: int,
    size_bytes: int = 100,
    timeout_s: float = 30.0,
) -> IPv4Address | None:
    """Asks who `place` is seen as at `address`; None when no answer comes."""
    done: subprocess.CompletedProcess[str] = place.try_run(
        *(sys.executable, "-I", "-S", str(_TRAFFIC), "ask", protocol, str(address)),
        *(str(port), str(size_bytes), str(timeout_s)),
    )
    return IPv4Address(json.loads(done.stdout)["source"]) if done.returncode == 0 else None


def situation(host: Host) -> str:
    """Returns what is needed to understand why packets do not arrive at a host."""
    commands = ["iptables-save", "ip -4 address", "ip -4 route"]
    if host.site.kind.rules == "nft":
        commands.append("nft list ruleset")
    parts = [f"--- {host.name}"]
    parts += [host.machine.try_run(*command.split()).stdout for command in commands]
    if host.daemon is not None:
        parts.append(host.daemon.output()[-3000:])
    return "\n".join(parts)
