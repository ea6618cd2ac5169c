"""Judges a lab: what the daemons counted, what the underlay carried, what is left afterwards.

Each check returns a line that says what it saw, or raises `LabError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from tunneld.errors import LabError
from tunneld.host.routes import PROTOCOL
from tunneld.lab import namespaces
from tunneld.lab.drawing import HostView
from tunneld.lab.topology import Host, Topology
from tunneld.lab.traffic import count_marked, read_capture
from tunneld.lab.wire import wire_of


def check_counters(topology: Topology, statuses: Mapping[Host, Mapping[str, Any]]) -> str:
    """Every peer was sent to and heard from in each family, and nothing was dropped."""
    families = ["ipv4"] * topology.has_ipv4 + ["ipv6"] * topology.has_ipv6
    peers = 0
    for host, status in statuses.items():
        for peer in status["peers"]:
            peers += 1
            for family in families:
                _check_reach(host, family, peer["reach"].get(family, {}))
        # A host may be asked for keys before it has seen the other's record; it is asked again.
        drops = {
            reason: count
            for reason, count in status["drops"].items()
            if count and not reason.startswith("handshake_")
        }
        if drops:
            msg = f"lab: {host.label} dropped packets: {json.dumps(drops)}, expected none"
            raise LabError(msg)
    if topology.moves_by_kernel:
        return f"counters: the kernel moves the packets of all {peers} peers, and counts none"
    return f"counters: tx and rx above 0 for all {peers} peers, no drops"


def _check_reach(host: Host, family: str, reach: Mapping[str, Any]) -> None:
    if not reach:
        msg = f"lab: {host.label} has a peer that is not reached over {family}, expected all to be"
        raise LabError(msg)
    sent, heard = reach["tx_packets"], reach["rx_packets"]
    if sent is not None and not (sent > 0 and heard > 0):
        msg = (
            f"lab: {host.label} counts {sent} packets to and {heard} from its peer at "
            f"{reach['endpoint']}, expected both above 0"
        )
        raise LabError(msg)


def check_keys(topology: Topology, statuses: Mapping[Host, Mapping[str, Any]]) -> str:
    """Every peer is reached under keys, with the cipher that was asked for."""
    used: set[str] = set()
    for host, status in statuses.items():
        for peer in status["peers"]:
            security = peer["security"]
            if not peer["encrypted"]:
                msg = f"lab: {host.label} reaches {peer['subnet']} without keys: {security}"
                raise LabError(msg)
            if topology.cipher not in ("auto", security["cipher"]):
                msg = f"lab: {host.label} uses {security['cipher']}, expected {topology.cipher}"
                raise LabError(msg)
            used.add(f"{security['cipher']} by {security['provider']}")
    return f"keys: every peer is reached under keys ({', '.join(sorted(used))})"


def check_plaintext(beside: int, overlay: Path, foreign: Path) -> str:
    """Nobody on the underlay could read the pings, of which `beside` were readable in plain."""
    if not beside:
        msg = "lab: no ping was found in the capture without encryption: this check sees nothing"
        raise LabError(msg)
    marked = sum(map(count_marked, (overlay, foreign)))
    if marked:
        msg = f"lab: {marked} packets on the underlay show what pings carry, expected none"
        raise LabError(msg)
    return f"plain text: in 0 packets on the underlay; without encryption it was in {beside}"


def check_underlay(
    topology: Topology, views: Sequence[HostView], overlay: Path, foreign: Path
) -> str:
    """Both directions between all hosts were what the backend says, and there was nothing else."""
    wire = wire_of(topology)
    strangers = read_capture(foreign)
    if strangers:
        expected = " nor ".join(
            ["neighbour discovery", wire.name, *(["etcd"] if topology.store == "etcd" else [])]
        )
        msg = f"lab: {len(strangers)} packets on the underlay are neither {expected}; the first: "
        raise LabError(msg + strangers[0])
    seen = read_capture(overlay, wire.expression)
    if wire.mark:
        decoded = read_capture(overlay, wire.expression, options=wire.decoder)
        marked = sum(wire.mark in line for line in decoded)
        if marked != len(seen):
            msg = f"lab: {len(seen) - marked} of {len(seen)} datagrams are not {wire.mark!r}"
            raise LabError(msg)
    for one, other in permutations(views, 2):
        # Encapsulated packets bear the addresses of hosts, plain ones those of containers.
        ends = (
            (one.containers, other.containers)
            if wire.is_plain
            else (one.underlays, other.underlays)
        )
        if wire.is_esp:
            ends = (one.underlays[:1], other.underlays[:1])
        for source, target in zip(*ends, strict=True):
            if not read_capture(overlay, f"({wire.expression}) and src {source} and dst {target}"):
                msg = f"lab: no {wire.name} from {source} to {target} captured"
                raise LabError(msg)
    return f"underlay: overlay traffic was {wire.name} only ({len(seen)} packets seen, 0 others)"


def check_host_is_clean(topology: Topology, host: Host) -> None:
    """After the daemon's stop its host holds no device, route or rule of tunneld.

    Where packets are encrypted, routes into nothing keep them from leaving in plain meanwhile.

    Raises:
        LabError: something is left.
    """
    space = host.namespace
    links = namespaces.run("ip", "-n", space, "-o", "link", "show")
    rules = namespaces.run(*namespaces.inside(space, "nft", "list", "ruleset"))
    left = [line for line in links.splitlines() if "flannel" in line]
    left += rules.splitlines()[:1]
    for family in ("-4", "-6"):
        routes = namespaces.run("ip", "-n", space, family, "route", "show", "table", "all")
        marks = ("flannel", f"proto {PROTOCOL} ")
        found = [line for line in routes.splitlines() if any(mark in f"{line} " for mark in marks)]
        left += [
            line
            for line in found
            if not (topology.is_encrypted and line.startswith("unreachable "))
        ]
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
