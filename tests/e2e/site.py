"""A lab as the tests use it: probes inside its namespaces, counters, the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from testbed.etcd import PATIENT
from testbed.netns import run
from testbed.process import thread_states
from testbed.wait import wait_until
from tunneld.errors import LabError
from tunneld.lab import namespaces, traffic
from tunneld.lab.build import Lab
from tunneld.lab.daemons import status_of
from tunneld.lab.drawing import HostView
from tunneld.lab.topology import Host
from tunneld.lab.wire import PORTS
from tunneld.lease.model import IPAddress

PROBE = Path(__file__).with_name("probe.py")
PREFIX = "/coreos.com/network"


class Site:
    """A lab that is up."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.topology = lab.topology
        self.hosts: tuple[Host, ...] = lab.topology.hosts
        self.views: list[HostView] = lab.views

    def probe(self, namespace: str, **order: Any) -> list[bytes]:
        return [bytes.fromhex(item) for item in self.probe_text(namespace, **order)]

    def probe_text(self, namespace: str, **order: Any) -> list[str]:
        command = ("nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-I", str(PROBE))
        found: list[str] = json.loads(run(*command, stdin=json.dumps(order)))
        return found

    def send(self, namespace: str, target: IPAddress, *payloads: bytes) -> None:
        """Sends datagrams to a host's overlay port, from whatever address the namespace has."""
        self.probe(
            namespace,
            do="datagram",
            source="::" if target.version == 6 else "0.0.0.0",
            target=str(target),
            port=PORTS[self.topology.backend],
            payloads=[payload.hex() for payload in payloads],
        )

    def data_of(self, number: int, name: str = "BackendData") -> dict[str, Any]:
        """Returns what the lease of a host says for its backend."""
        data: dict[str, Any] = json.loads(
            self.etcdctl("get", "--print-value-only", self.key(number))
        )[name]
        return data

    def key(self, number: int) -> str:
        """Returns the name of a host's lease in the store."""
        bridges = self.views[number].bridges
        subnets = (f"{bridge.network[0]}-{bridge.network.prefixlen}" for bridge in bridges)
        return f"{PREFIX}/subnets/{'&'.join(subnets)}"

    def drops(self, host: Host) -> dict[str, int]:
        """Returns the counts once the data threads have dealt with all that came to them."""
        daemon = self.lab.daemons[host].pid

        def rests() -> bool:
            return set(thread_states(daemon, "tunneld-").values()) <= {"S"}

        wait_until(rests, what=f"rest on {host.label}")
        counts: dict[str, int] = status_of(host)["drops"]
        return counts

    def new_drops(self, host: Host, before: dict[str, int], expected: int) -> dict[str, int]:
        """Waits until `expected` more packets were dropped; returns the reasons that rose."""

        def risen() -> dict[str, int]:
            after = self.drops(host)
            return {name: n - before[name] for name, n in after.items() if n > before[name]}

        def enough() -> bool:
            return sum(risen().values()) >= expected

        wait_until(enough, what=f"{expected} more drops on {host.label}")
        return risen()

    def widen(self) -> None:
        """Lets the first host's container believe in 1,500 bytes, as without FLANNEL_MTU."""
        host = self.hosts[0]
        for namespace, device in (
            (host.namespace, "br0"),
            (host.namespace, "veth0"),
            (host.container_namespace, "eth0"),
        ):
            namespaces.run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")

    @contextmanager
    def narrowed(self, address: IPAddress, mtu_bytes: int) -> Iterator[None]:
        """Narrows the first host's way to an underlay address while the block runs."""
        route = (str(address), "dev", "eth0", "mtu", str(mtu_bytes))
        namespaces.run("ip", "-n", self.hosts[0].namespace, "route", "add", *route)
        try:
            yield
        finally:
            namespaces.run("ip", "-n", self.hosts[0].namespace, "route", "del", *route)

    def wait_ready(self) -> None:
        """Waits until no host has anything to complain of."""
        wait_until(
            lambda: {status_of(host)["state"] for host in self.hosts} == {"ready"},
            what="hosts that are all ready",
        )

    def ping_all(self) -> None:
        """Pings between all containers; a lost answer fails with what every host counted."""
        try:
            traffic.ping_all(self.topology, self.views)
        except LabError as error:
            for host in self.hosts:
                error.add_note(f"{host.label}: {json.dumps(status_of(host))}")
                error.add_note(namespaces.run("ip", "-n", host.namespace, "-s", "neighbour"))
                error.add_note(namespaces.run("ip", "-n", host.namespace, "-s", "link"))
            raise

    def etcdctl(self, *argv: str) -> str:
        return namespaces.run(
            *namespaces.inside(
                self.topology.switch,
                *("env", "ETCDCTL_API=3", "etcdctl"),
                f"--endpoints={self.topology.etcd_endpoint}",
                *PATIENT,
                *argv,
            )
        )
