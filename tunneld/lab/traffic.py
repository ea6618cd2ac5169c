"""Sends traffic between the containers of a lab and watches what the underlay carries meanwhile."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.drawing import HostView
from tunneld.lab.topology import Topology
from tunneld.lease.model import IPAddress

MARKER = b"tunneld in plain"
"""What pings carry, as often as it fits."""

_PINGS = 3
_PATIENCE_S = 10
_START_TIMEOUT_S = 30.0
_ROUND_TRIP = re.compile(r"time=(?P<ms>[\d.]+) ms")


@contextmanager
def capture(topology: Topology, path: Path, expression: str) -> Iterator[None]:
    """Writes what crosses the underlay's switch and fits `expression` to a file.

    Raises:
        LabError: tcpdump did not start.
    """
    log = path.with_suffix(".log")
    process = namespaces.start(
        topology.switch,
        *("tcpdump", "-n", "-U", "--immediate-mode", "-s", "256", "-Z", "root"),
        *("-i", "sw0", "-w", str(path), *expression.split()),
        log=log,
    )
    try:

        def listens() -> bool:
            if process.poll() is not None:
                msg = f"lab: tcpdump ended with {process.returncode}: {log.read_text().strip()}"
                raise LabError(msg)
            return "listening on" in log.read_text()

        if not namespaces.became_true(listens, _START_TIMEOUT_S):
            msg = f"lab: tcpdump does not listen; its log: {log}"
            raise LabError(msg)
        yield
        # Asleep, it has read all that came; a busy machine may not have let it yet.

        def is_asleep() -> bool:
            stat = Path(f"/proc/{process.pid}/stat").read_text()
            return stat.rpartition(") ")[2][0] == "S"

        if not namespaces.became_true(is_asleep, _START_TIMEOUT_S):
            msg = f"lab: tcpdump does not come to the end of what it sees; its log: {log}"
            raise LabError(msg)
    finally:
        namespaces.stop([process])


def read_capture(
    path: Path, expression: str = "", *, options: Sequence[str] = ("-q",)
) -> list[str]:
    """Returns a line for each captured packet that fits `expression`.

    `options` of tcpdump other than `-q` may give more than one.
    """
    argv = ("tcpdump", "-n", *options, "-r", str(path), *expression.split())
    return namespaces.run(*argv).splitlines()


def count_marked(path: Path) -> int:
    """Returns how many captured packets hold the marker of pings, readable to anybody.

    Source: draft-ietf-opsawg-pcap (a header of 24 bytes, and of 16 before each packet).
    """
    content = path.read_bytes()
    marked, place = 0, 24
    while place < len(content):
        (captured,) = struct.unpack_from("=8xI", content, place)
        place += 16 + captured
        marked += MARKER in content[place - captured : place]
    return marked


def ping_all(topology: Topology, views: list[HostView]) -> list[str]:
    """Pings from every container to every other, in each family; returns a line for each.

    Raises:
        LabError: an answer is missing.
    """
    lines = []
    for (host, view), (_, other) in permutations(zip(topology.hosts, views, strict=True), 2):
        for own, target in zip(view.containers, other.containers, strict=True):
            times_ms = [_round_trip_ms(host.container_namespace, target) for _ in range(_PINGS)]
            lines.append(
                f"{view.label}-c {own} -> {other.label}-c {target}: "
                f"{_PINGS} of {_PINGS} answered, {sum(times_ms) / _PINGS:.3f} ms"
            )
    return lines


def _round_trip_ms(namespace: str, target: IPAddress) -> float:
    """Sends one echo request from a namespace; returns how long its answer took.

    One ping for each: one for several gives the last answer only twice the time of those before,
    whatever `-W` says, and a busy machine may need longer.

    Raises:
        LabError: no answer came.
    """
    argv = ("ping", "-n", "-c", "1", "-W", str(_PATIENCE_S), "-p", MARKER.hex(), str(target))
    said = namespaces.run(*namespaces.inside(namespace, *argv))
    found = _ROUND_TRIP.search(said)
    if found is None:
        msg = f"lab: ping from {namespace} to {target} says no time: {said.strip()}"
        raise LabError(msg)
    return float(found["ms"])


def throughput_bits_per_s(
    sender: str, receiver: str, address: IPAddress, *, duration_s: int, log: Path
) -> float:
    """Returns what one TCP stream brings from a namespace to `address` in another.

    Raises:
        LabError: iperf3 failed.
    """
    log.unlink(missing_ok=True)
    server = namespaces.start(receiver, "iperf3", "-s", "-1", "--forceflush", log=log)
    try:
        if not namespaces.became_true(lambda: "listening" in log.read_text(), _START_TIMEOUT_S):
            msg = f"lab: the iperf3 server does not listen; its log: {log}"
            raise LabError(msg)
        said = namespaces.run(
            *namespaces.inside(
                sender, *("iperf3", "-J", "-c", str(address), "-t", str(duration_s))
            ),
            timeout_s=duration_s + 120.0,
        )
        server.wait(_START_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        msg = f"lab: the iperf3 server does not end; its log: {log}"
        raise LabError(msg) from error
    finally:
        namespaces.stop([server])
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"])
