"""Starts the lab's store and writes the network config into it.

`etcd`: a real one, alone, in the switch namespace. `sqlite`: a file, nothing to start.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.topology import Topology

_READY_TIMEOUT_S = 60.0


def environment() -> dict[str, str]:
    """Returns the environment of the lab's programs: nothing of this machine's own tunneld."""
    foreign = ("TUNNELD_", "FLANNELD_", "ETCD", "NOTIFY_SOCKET")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def tunneld_command(topology: Topology, *argv: str) -> tuple[str, ...]:
    """Returns a tunneld command line on the lab's store, with no config file of this machine."""
    no_file = ("--config", "/dev/null")
    return (sys.executable, "-P", "-m", "tunneld", *argv, *topology.store_options, *no_file)


def start_store(topology: Topology) -> list[subprocess.Popen[bytes]]:
    """Starts what the store needs; returns its processes once it answers.

    Raises:
        LabError: it ended, or does not answer.
    """
    if topology.store == "sqlite":
        return []
    endpoint = topology.etcd_endpoint
    peer = f"http://{topology.switch_address.ip}:2380"
    log = topology.directory / "etcd.log"
    process = namespaces.start(
        topology.switch,
        *("etcd", "--name", "lab", "--data-dir", str(topology.directory / "etcd")),
        *("--listen-client-urls", endpoint, "--advertise-client-urls", endpoint),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"lab={peer}"),
        log=log,
        env=environment(),
    )
    health = namespaces.inside(
        topology.switch,
        *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={endpoint}", "endpoint", "health"),
    )

    def answers() -> bool:
        if process.poll() is not None:
            msg = f"lab: etcd ended with {process.returncode}; its log: {log}"
            raise LabError(msg)
        return subprocess.run(health, capture_output=True, check=False).returncode == 0

    if not namespaces.became_true(answers, _READY_TIMEOUT_S):
        msg = f"lab: etcd at {endpoint} does not answer after {_READY_TIMEOUT_S:g} s; log: {log}"
        raise LabError(msg)
    return [process]


def write_network_config(topology: Topology) -> None:
    """Writes the network config with `tunneld network set`, as an operator would."""
    namespaces.run(
        *namespaces.inside(topology.switch, *tunneld_command(topology, "network", "set", "-")),
        stdin=topology.network_config,
    )
