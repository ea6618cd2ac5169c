"""Starts one tunneld per host of a lab, waits for it, and asks it for its status."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_interface
from typing import Any

from tunneld.control.client import NotRunningError, request
from tunneld.errors import LabError
from tunneld.host.routes import PROTOCOL
from tunneld.lab import namespaces
from tunneld.lab.drawing import HostView
from tunneld.lab.store import environment, tunneld_command
from tunneld.lab.topology import Host, Topology
from tunneld.lease.model import IPAddress

_READY_TIMEOUT_S = 90.0
_ANSWER_TIMEOUT_S = 60.0


def start_daemon(topology: Topology, host: Host) -> subprocess.Popen[bytes]:
    """Starts the daemon of a host; it finds its interface by the default route."""
    secrets = ("--psk-file", str(topology.psk_file), "--encryption-floor", topology.encryption)
    return namespaces.start(
        host.namespace,
        *tunneld_command(topology, "run"),
        *(secrets if topology.is_encrypted else ()),
        *("--state-dir", str(host.state_dir)),
        *("--subnet-file", str(host.subnet_file)),
        *("--control-socket", str(host.control_socket)),
        *("--datapath", topology.datapath),
        log=host.log,
        env=environment(),
    )


def wait_ready(topology: Topology, processes: dict[Host, subprocess.Popen[bytes]]) -> None:
    """Waits until every daemon forwards and knows all others as peers.

    Raises:
        LabError: a daemon ended, or is not there in time; the message holds its last line.
    """

    def ready(host: Host, process: subprocess.Popen[bytes]) -> Callable[[], bool]:
        def is_ready() -> bool:
            if process.poll() is not None:
                msg = f"lab: tunneld on {host.label} ended with {process.returncode}: "
                raise LabError(msg + _last_line(host))
            try:
                status = status_of(host)
            except NotRunningError:
                return False
            peers = status["peers"]
            is_complete = status["state"] == "ready" and len(peers) == topology.size - 1
            return is_complete and (not topology.moves_by_kernel or _routes_to(host, peers))

        return is_ready

    for host, process in processes.items():
        if not namespaces.became_true(ready(host, process), _READY_TIMEOUT_S):
            msg = f"lab: tunneld on {host.label} is not ready after {_READY_TIMEOUT_S:g} s: "
            raise LabError(msg + _last_line(host))


def _routes_to(host: Host, peers: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether the kernel has been told of all peers, of which their routes are the last."""
    routes = [
        line.split()[0]
        for family in ("-4", "-6")
        for line in namespaces.run(
            *("ip", "-n", host.namespace, family, "route", "show", "proto", str(PROTOCOL))
        ).splitlines()
    ]
    subnets = {peer[name] for peer in peers for name in ("subnet", "ipv6_subnet")} - {None}
    return subnets.issubset(routes)


def status_of(host: Host) -> dict[str, Any]:
    """Returns the document of `tunneld status --json` on a host."""
    document: dict[str, Any] = request(host.control_socket, "status", timeout_s=_ANSWER_TIMEOUT_S)
    return document


def view_of(host: Host) -> HostView:
    """Returns what the drawing shows of a host whose daemon is ready."""
    env = subnet_env(host)
    addresses: dict[str, IPAddress] = {
        "FLANNEL_SUBNET": host.address,
        "FLANNEL_IPV6_SUBNET": host.address_v6,
    }
    return HostView(
        label=host.label,
        underlays=tuple(address for name, address in addresses.items() if name in env),
        devices=tuple(status_of(host)["backend"]["devices"]),
        bridges=tuple(ip_interface(env[name]) for name in addresses if name in env),
        mtu_bytes=int(env["FLANNEL_MTU"]),
    )


def subnet_env(host: Host) -> dict[str, str]:
    """Returns the fields of a host's `subnet.env`."""
    try:
        lines = host.subnet_file.read_text().splitlines()
    except FileNotFoundError as error:
        msg = f"lab: {host.label} has no {host.subnet_file}: its daemon was never ready"
        raise LabError(msg) from error
    return dict(line.split("=", 1) for line in lines)


def _last_line(host: Host) -> str:
    lines = host.log.read_text(errors="replace").splitlines() if host.log.exists() else []
    said = lines[-1] if lines else "it said nothing"
    return f"{said} (log: {host.log})"
