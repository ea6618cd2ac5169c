"""Builds a lab from nothing to pinging containers, and takes it down, whatever is left of it.

The file `lab.json` in the lab's directory is written first and removed last, so that a lab whose
builder was killed can be found and taken down by name.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunneld.errors import LabError
from tunneld.host.capabilities import NAMESPACES, require_capabilities
from tunneld.lab import namespaces
from tunneld.lab.daemons import start_daemon, view_of, wait_ready
from tunneld.lab.drawing import HostView
from tunneld.lab.store import start_store, write_network_config
from tunneld.lab.topology import DEFAULT_NAME, ROOT, UNDERLAY, UNDERLAY_V6, Host, Topology

UNDERLAY_MTU_BYTES = 1500
_STATE_FILE = "lab.json"

Say = Callable[[str], None]


class Lab:
    """A lab that was built by this process."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.store: list[subprocess.Popen[bytes]] = []
        self.daemons: dict[Host, subprocess.Popen[bytes]] = {}
        self.views: list[HostView] = []

    def build(self, say: Say) -> None:
        """Builds everything.

        Raises:
            LabError: a step failed; what was made stays until `take_down`.
        """
        topology = self.topology
        topology.directory.mkdir(parents=True)
        (topology.directory / _STATE_FILE).write_text(topology.to_json())
        say(f"making {topology.size} hosts on the underlay {UNDERLAY}")
        _make_underlay(topology)
        say(f"starting the store ({topology.store}) and writing the network config")
        self.store = start_store(topology)
        write_network_config(topology)
        if topology.is_encrypted:
            _write_psk(topology.psk_file)
        say("starting a daemon on every host")
        for host in topology.hosts:
            self.daemons[host] = start_daemon(topology, host)
        wait_ready(topology, self.daemons)
        self.views = [view_of(host) for host in topology.hosts]
        say("attaching a bridge and a container to every lease")
        for host, view in zip(topology.hosts, self.views, strict=True):
            _attach_container(host, view)

    def stop_daemons(self) -> None:
        """Ends the daemons as an operator would.

        Raises:
            LabError: one did not end with 0.
        """
        hosts, processes = list(self.daemons), list(self.daemons.values())
        self.daemons = {}
        for host, status in zip(hosts, namespaces.stop(processes), strict=True):
            if status != 0:
                msg = f"lab: tunneld on {host.label} ended with {status} on SIGTERM, expected 0"
                raise LabError(f"{msg} (log: {host.log})")

    def take_down(self) -> None:
        """Ends everything, in whatever state it is."""
        namespaces.stop([*self.daemons.values(), *self.store])
        take_down(self.topology.name)


def require_rights() -> None:
    """Returns when this process may make network namespaces, and enter them.

    Raises:
        CapabilityError: names what is missing.
    """
    require_capabilities(NAMESPACES, "Docker: --privileged")


def find(name: str) -> Topology:
    """Returns the lab that stands under a name.

    Raises:
        LabError: there is none.
        UsageError: the name is none of a lab.
    """
    path = Topology(name=name).directory / _STATE_FILE
    try:
        return Topology.from_json(path.read_text())
    except FileNotFoundError as error:
        command = f"tunneld lab up{name_option(name)}"
        msg = f"lab {name}: there is none (no {path}); `{command}` makes one"
        raise LabError(msg) from error


def name_option(name: str) -> str:
    """Returns what leads a command of `tunneld lab` to this lab, with a space before it."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


def is_there(name: str) -> bool:
    """Returns whether anything of a lab is left."""
    topology = Topology(name=name)
    return topology.directory.exists() or bool(namespaces.existing(topology.prefix))


def require_absent(name: str) -> None:
    """Makes sure that a new lab does not run into an old one.

    Raises:
        LabError: something of it is there.
    """
    if is_there(name):
        command = f"tunneld lab down{name_option(name)}"
        msg = f"lab {name}: is there already, or a killed run left it; `{command}` first"
        raise LabError(msg)


def take_down(name: str) -> None:
    """Removes whatever there is of a lab, however it came to be in that state."""
    topology = Topology(name=name)
    left = namespaces.existing(topology.prefix)
    # Hosts before the switch: a daemon that stops cleanly may still want its store.
    for namespace in sorted(left, key=lambda name: name == topology.switch):
        namespaces.end_processes(namespace)
    for namespace in left:
        namespaces.delete(namespace)
    shutil.rmtree(topology.directory, ignore_errors=True)
    with suppress(OSError):  # other labs live in there
        ROOT.rmdir()


@contextmanager
def sole_use(name: str) -> Iterator[None]:
    """Keeps other commands from building or removing this lab meanwhile.

    Raises:
        LabError: another command is at it.
        UsageError: the name is none of a lab.
    """
    path = ROOT / f"{Topology(name=name).name}.lock"
    descriptor = _lock(path, name)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):
            ROOT.rmdir()


def _lock(path: Path, name: str) -> int:
    while True:
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # The end of another lab took the empty directory away in between.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            msg = f"lab {name}: another command is building, running or removing it"
            raise LabError(msg) from error
        # The last holder may have unlinked the file between our open and our lock.
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)


def _write_psk(path: Path) -> None:
    """Makes the PSK of all hosts; it goes with the lab's directory."""
    path.touch(0o600)
    path.write_bytes(base64.b64encode(secrets.token_bytes(32)) + b"\n")


def _make_underlay(topology: Topology) -> None:
    namespaces.create(topology.switch)
    gateway = topology.switch_address
    namespaces.bridge(topology.switch, "sw0", str(gateway), UNDERLAY_MTU_BYTES)
    gateway_v6 = topology.switch_address_v6
    if topology.has_ipv6:
        namespaces.add_address(topology.switch, "sw0", str(gateway_v6))
    for host in topology.hosts:
        host.directory.mkdir()
        namespaces.create(host.namespace)
        namespaces.sysctl(host.namespace, "net/ipv4/ip_forward", 1)  # as dockerd does
        if topology.has_ipv6:
            namespaces.sysctl(host.namespace, "net/ipv6/conf/all/forwarding", 1)
        namespaces.plug(
            host.namespace,
            "eth0",
            f"{host.address}/{UNDERLAY.prefixlen}",
            to=(topology.switch, "sw0"),
            port=host.label,
            mtu_bytes=UNDERLAY_MTU_BYTES,
        )
        via = ("default", "via", str(gateway.ip))
        namespaces.run("ip", "-n", host.namespace, "route", "add", *via)
        if topology.has_ipv6:
            address_v6 = f"{host.address_v6}/{UNDERLAY_V6.prefixlen}"
            namespaces.add_address(host.namespace, "eth0", address_v6)
            via = ("default", "via", str(gateway_v6.ip))
            namespaces.run("ip", "-n", host.namespace, "route", "add", *via)


def _attach_container(host: Host, view: HostView) -> None:
    namespaces.create(host.container_namespace)
    ends = ((host.namespace, "br0"), (host.container_namespace, "eth0"))
    namespaces.bridge(host.namespace, "br0", None, view.mtu_bytes)
    namespaces.plug(
        *(host.container_namespace, "eth0", None),
        to=(host.namespace, "br0"),
        port="veth0",
        mtu_bytes=view.mtu_bytes,
    )
    for bridge, container in zip(view.bridges, view.containers, strict=True):
        addresses = (str(bridge), f"{container}/{bridge.network.prefixlen}")
        for (namespace, device), address in zip(ends, addresses, strict=True):
            namespaces.add_address(namespace, device, address)
        via = ("default", "via", str(bridge.ip))
        namespaces.run("ip", "-n", host.container_namespace, "route", "add", *via)
