"""Measures a lab of two hosts: TCP throughput and round trips, overlay beside bare underlay.

Writes every single figure, with what it was measured on, to `bench/results/lab-<time>.json`, and
prints the medians. Method and limits: `bench/README.md`.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from tunneld import __version__
from tunneld.lab import namespaces, traffic
from tunneld.lab.build import Lab, sole_use, take_down
from tunneld.lab.main_job import interruptible, say, uninterruptible
from tunneld.lab.topology import Topology

RUNS = 5
STREAM_S = 3
PINGS = 500
RESULTS = Path(__file__).parent / "results"


def round_trips_ms(namespace: str, address: IPv4Address) -> list[float]:
    said = namespaces.run(
        *namespaces.inside(namespace, "ping", "-n", "-i", "0.01", "-c", str(PINGS), str(address))
    )
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", said)]


def measure(lab: Lab) -> dict[str, dict[str, list[float]]]:
    """Returns figures by path and quantity; the two paths take turns, so that drift hits both."""
    (first, last), view = lab.topology.hosts, lab.views[-1]
    paths = {
        "underlay": (first.namespace, last.namespace, last.address),
        "overlay": (first.container_namespace, last.container_namespace, view.container),
    }
    figures: dict[str, dict[str, list[float]]] = {
        name: {"tcp_bits_per_s": [], "round_trip_ms": []} for name in paths
    }
    for run in range(1, RUNS + 1):
        for name, (sender, receiver, address) in paths.items():
            rate = traffic.throughput_bits_per_s(
                sender,
                receiver,
                address,
                duration_s=STREAM_S,
                log=lab.topology.directory / "iperf3.log",
            )
            figures[name]["tcp_bits_per_s"].append(rate)
            say(f"run {run} of {RUNS}: {name} {rate / 1e6:,.0f} Mbit/s")
    for name, (sender, _, address) in paths.items():
        figures[name]["round_trip_ms"] = round_trips_ms(sender, address)
    return figures


def machine() -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpus = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "tunneld": __version__,
        "commit": commit,
        "kernel": platform.release(),
        "cpu": cpus[0] if cpus else "unknown",
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def main() -> int:
    topology = Topology(name="bench", size=2)
    about = machine()
    with sole_use(topology.name), interruptible():
        take_down(topology.name)
        lab = Lab(topology)
        try:
            lab.build(say)
            figures = measure(lab)
        finally:
            with uninterruptible():
                lab.take_down()
    now = datetime.now(tz=UTC)
    place = RESULTS / f"lab-{now:%Y%m%dT%H%M%SZ}.json"
    place.parent.mkdir(exist_ok=True)
    document = {"time": now.isoformat(), "machine": about, "figures": figures}
    place.write_text(json.dumps(document, indent=1) + "\n")
    for name, quantities in figures.items():
        rate = statistics.median(quantities["tcp_bits_per_s"]) / 1e6
        trip = statistics.median(quantities["round_trip_ms"])
        print(f"{name:<9} {rate:>9,.0f} Mbit/s  {trip:.3f} ms   (medians)")
    print(f"raw figures: {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
