"""Judges a lab: what the daemons counted, what the underlay carried, what is left afterwards.

Each check returns a line that says what it saw, or raises `LabError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.topology import UDP_PORT, Host, Topology
from tunneld.lab.traffic import read_capture


def check_counters(statuses: Mapping[Host, Mapping[str, Any]]) -> str:
    """Every peer was sent to and heard from, and nothing was dropped."""
    peers = 0
    for host, status in statuses.items():
        for peer in status["peers"]:
            peers += 1
            if not (peer["tx_packets"] > 0 and peer["rx_packets"] > 0):
                msg = (
                    f"lab: {host.label} counts {peer['tx_packets']} packets to and "
                    f"{peer['rx_packets']} from its peer {peer['subnet']}, expected both above 0"
                )
                raise LabError(msg)
        drops = {reason: count for reason, count in status["drops"].items() if count}
        if drops:
            msg = f"lab: {host.label} dropped packets: {json.dumps(drops)}, expected none"
            raise LabError(msg)
    return f"counters: tx and rx above 0 for all {peers} peers, no drops"


def check_underlay(topology: Topology, overlay: Path, foreign: Path) -> str:
    """Both directions between all hosts were UDP 8285 datagrams, and there was nothing else."""
    strangers = read_capture(foreign)
    if strangers:
        msg = (
            f"lab: {len(strangers)} packets on the underlay are neither ARP nor UDP {UDP_PORT}"
            f"{' nor etcd' if topology.store == 'etcd' else ''}; the first: {strangers[0]}"
        )
        raise LabError(msg)
    total = 0
    for source, target in permutations(topology.hosts, 2):
        seen = read_capture(
            overlay, f"udp port {UDP_PORT} and src {source.address} and dst {target.address}"
        )
        if not seen:
            msg = f"lab: no UDP {UDP_PORT} from {source.address} to {target.address} captured"
            raise LabError(msg)
        total += len(seen)
    return f"underlay: overlay traffic was UDP {UDP_PORT} only ({total} datagrams seen, 0 others)"


def check_host_is_clean(host: Host) -> None:
    """After the daemon's stop its host holds no device, route or rule of tunneld.

    Raises:
        LabError: something is left.
    """
    space = host.namespace
    links = namespaces.run("ip", "-n", space, "-o", "link", "show")
    rules = namespaces.run(*namespaces.inside(space, "nft", "list", "ruleset"))
    routes = namespaces.run("ip", "-n", space, "route", "show", "table", "all")
    left = [line for line in links.splitlines() if "flannel" in line]
    left += rules.splitlines()[:1]
    left += [line for line in routes.splitlines() if "flannel" in line or "unreachable" in line]
    if left:
        msg = f"lab: after its stop tunneld left on {host.label}: {' | '.join(left)}"
        raise LabError(msg)


def check_nothing_left(topology: Topology, pids: Iterable[int]) -> str:
    """After the lab is taken down no namespace, process or file of it is there."""
    left = namespaces.existing(topology.prefix)
    left += [f"process {pid}" for pid in pids if _is_alive(pid)]
    left += [str(topology.directory)] if topology.directory.exists() else []
    if left:
        msg = f"lab: left behind: {', '.join(left)}"
        raise LabError(msg)
    return "left behind: no namespace, no process, no rule, no file"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
