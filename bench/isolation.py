"""`python -m bench.isolation`: what one peer's trouble costs another. Needs root.

Three hosts; the first sends to the third, or to peers that nobody has ever seen, and meanwhile its
container's echo requests to the second are timed. tunneld's udp and vxlan, and the kernel's vxlan
device as flannel makes it, take turns in the same run:

idle        nothing else is sent
busy        the third host is sent 50 Mbit/s, and its way takes them: what the sending itself costs
slow        the way to the third host takes 5 Mbit/s (htb), and is sent 50
unresolved  150 leases of hosts that answer no ARP, sent 6,000 datagrams a second in all
dead        the third host's daemon and device are gone; its kernel refuses what it is sent

python -m bench.isolation              five rounds, about 20 minutes
python -m bench.isolation --rounds 1   a first look
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any, Final

from bench.lab import environment, raw
from tunneld.control.client import request
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.build import Lab, is_there, sole_use, take_down
from tunneld.lab.main_job import interruptible, uninterruptible
from tunneld.lab.topology import OVERLAY, Datapath, Topology

NAME: Final = "isolation"
OVERLAYS: Final[dict[str, tuple[str, Datapath]]] = {
    "tunneld udp": ("udp", "userspace"),
    "tunneld vxlan": ("vxlan", "userspace"),
    "kernel vxlan": ("vxlan", "kernel"),
}
STATES: Final = ("idle", "busy", "slow", "unresolved", "dead")
PINGS: Final = 600
UNRESOLVED: Final = 150

_FLOOD: Final = """
import socket, sys, time
size, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
begin, sent = time.monotonic(), 0
while (passed := time.monotonic() - begin) < seconds:
    while sent < rate * passed:
        try:
            sock.sendto(bytes(size), (sys.argv[4 + sent % (len(sys.argv) - 4)], 9))
        except OSError:
            pass
        sent += 1
    time.sleep(0.001)
"""

Sample = dict[str, Any]


def main() -> int:
    """Measures, writes the raw figures, and prints the medians."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.isolation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each overlay (default: 5)")
    args = parser.parse_args()
    began = datetime.now(tz=UTC)
    path = raw.place(began, "isolation")
    document: dict[str, Any] = {
        "kind": "isolation",
        "began": began.isoformat(timespec="seconds"),
        "machine": environment.describe(),
        "samples": [],
    }
    with sole_use(NAME), interruptible():
        for number in range(1, args.rounds + 1):
            for overlay in OVERLAYS:
                for sample in _measure(overlay):
                    document["samples"].append({"round": number, "overlay": overlay, **sample})
                    raw.write(path, document)
                    print(f"{datetime.now(tz=UTC):%H:%M:%S} {overlay}: {sample}", flush=True)
    print(as_text(document["samples"]))
    print(f"raw figures: {path}")
    return 0


def as_text(samples: list[Sample]) -> str:
    """Returns medians over the rounds: p50 and p99 in ms, loss, and p99 by the idle one's."""
    lines = [f"{'':14} {'':11} {'p50 ms':>8} {'p99 ms':>8} {'loss %':>7} {'p99 / idle':>11}"]
    for overlay in OVERLAYS:
        idle = 0.0
        for state in STATES:
            chosen = [s for s in samples if (s["overlay"], s["state"]) == (overlay, state)]
            if not chosen:
                continue
            p50, p99, loss = (
                statistics.median(sample[name] for sample in chosen)
                for name in ("p50_ms", "p99_ms", "loss_percent")
            )
            idle = p99 if state == "idle" else idle
            ratio = p99 / idle if idle else 0.0
            row = f"{overlay:14} {state:11} {p50:8.3f} {p99:8.3f} {loss:7.2f} {ratio:11.2f}"
            lines.append(row)
    return "\n".join(lines)


def _measure(overlay: str) -> Iterator[Sample]:
    backend, datapath = OVERLAYS[overlay]
    if is_there(NAME):
        take_down(NAME)
    topology = Topology(name=NAME, size=3, store="etcd", backend=backend, datapath=datapath)
    lab = Lab(topology)
    try:
        lab.build(lambda _: None)
        near = topology.hosts[0].container_namespace
        second, third = (str(view.container) for view in lab.views[1:])
        _echoes(near, second, 200)
        yield {"state": "idle", **_echoes(near, second)}
        with _flood(near, 1300, 4_800, [third]):
            yield {"state": "busy", **_echoes(near, second), **_drops(topology, datapath)}
        with _slow(topology), _flood(near, 1300, 4_800, [third]):
            yield {"state": "slow", **_echoes(near, second), **_drops(topology, datapath)}
        unresolved = _lease_to_nobody(topology, backend)
        with _flood(near, 200, 6_000, unresolved):
            yield {"state": "unresolved", **_echoes(near, second), **_drops(topology, datapath)}
        host = topology.hosts[2]
        lab.daemons.pop(host).kill()
        for device in ("flannel0", "flannel.1"):
            _try("ip", "-n", host.namespace, "link", "delete", device)
        with _flood(near, 1300, 4_800, [third]):
            yield {"state": "dead", **_echoes(near, second), **_drops(topology, datapath)}
    finally:
        with uninterruptible():
            lab.take_down()


def _echoes(namespace: str, target: str, count: int = PINGS) -> Sample:
    # Below 10 ms ping spins, and takes the processor that the data thread is to be woken on.
    argv = ("ping", "-n", "-c", str(count), "-i", "0.02", "-W", "2", target)
    done = subprocess.run(
        namespaces.inside(namespace, *argv), capture_output=True, text=True, check=False
    )
    times = sorted(float(found) for found in re.findall(r"time=([\d.]+) ms", done.stdout))
    if not times:
        return {"p50_ms": float("inf"), "p99_ms": float("inf"), "loss_percent": 100.0}
    at = {name: times[min(len(times) - 1, int(len(times) * share))] for name, share in _SHARES}
    return {**at, "loss_percent": round(100 * (1 - len(times) / count), 2)}


_SHARES: Final = (("p50_ms", 0.5), ("p99_ms", 0.99))


def _drops(topology: Topology, datapath: str) -> Sample:
    if datapath == "kernel":
        return {}
    drops = request(topology.hosts[0].control_socket, "status")["drops"]
    return {"drops": {reason: count for reason, count in drops.items() if count}}


@contextmanager
def _slow(topology: Topology) -> Iterator[None]:
    near, third = topology.hosts[0].namespace, topology.hosts[2].address
    tc = ("tc", "-n", near)
    rates = {"1:10": "10gbit", "1:20": "5mbit"}
    htb = ("qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "10")
    namespaces.run(*tc, *htb)
    for number, rate in rates.items():
        add = ("class", "add", "dev", "eth0", "parent", "1:", "classid", number)
        namespaces.run(*tc, *add, "htb", "rate", rate)
    namespaces.run(
        *(*tc, "filter", "add", "dev", "eth0", "parent", "1:", "protocol", "ip", "u32"),
        *("match", "ip", "dst", f"{third}/32", "flowid", "1:20"),
    )
    try:
        yield
    finally:
        namespaces.run(*tc, "qdisc", "del", "dev", "eth0", "root")


@contextmanager
def _flood(namespace: str, size: int, rate: int, targets: list[str]) -> Iterator[None]:
    argv = (sys.executable, "-I", "-c", _FLOOD, str(size), str(rate), "120", *targets)
    process = subprocess.Popen(namespaces.inside(namespace, *argv))
    try:
        # What queues there are fill first: what is measured is how it goes on.
        _echoes(namespace, targets[0], 100)
        yield
    finally:
        process.kill()
        process.wait()


def _lease_to_nobody(topology: Topology, backend: str) -> list[str]:
    """Writes leases of hosts on the same link that are not there; returns an address in each."""
    subnets = list(IPv4Network(OVERLAY).subnets(new_prefix=24))[-UNRESOLVED - 1 : -1]
    etcdctl = namespaces.inside(
        topology.switch, "etcdctl", "--endpoints", topology.etcd_endpoint, "put"
    )
    for number, subnet in enumerate(subnets):
        value: dict[str, Any] = {"PublicIP": f"192.0.2.{100 + number}", "PublicIPv6": None}
        if backend == "vxlan":
            mac = f"0e:00:00:00:00:{number:02x}"
            value |= {"BackendType": "vxlan", "BackendData": {"VNI": 1, "VtepMAC": mac}}
        key = f"/coreos.com/network/subnets/{str(subnet).replace('/', '-')}"
        namespaces.run("env", "ETCDCTL_API=3", *etcdctl, key, json.dumps(value))
    control = topology.hosts[0].control_socket

    def known() -> bool:
        return len(request(control, "status")["peers"]) >= UNRESOLVED

    if not namespaces.became_true(known, 60.0):
        msg = f"bench: the first host knows fewer than {UNRESOLVED} peers after a minute"
        raise LabError(msg)
    return [str(subnet[5]) for subnet in subnets]


def _try(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
