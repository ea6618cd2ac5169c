"""Traffic from the first host's container to the second's, and what it cost.

Each measurement returns plain figures: what arrived, and the CPU time from just before the sender
starts to just after it ended. TCP is cubic on every socket, whatever the machine's default is.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from tunneld.bench import cpu
from tunneld.bench.local.overlay import Overlay
from tunneld.errors import LabError
from tunneld.lab import namespaces

CONGESTION: Final = "cubic"
FLOOD_BYTES: Final = 64
ROUND_TRIP_INTERVAL_US: Final = 2_000
_READY_TIMEOUT_S: Final = 30.0
_END_TIMEOUT_S: Final = 60.0
_ROOT: Final = Path(__file__).resolve().parents[2]

_ports = itertools.count(20_001)

Figures = dict[str, Any]


@cache
def load_program() -> str:
    """Builds `tunneld-load` if need be; returns its path.

    Raises:
        LabError: cargo failed.
    """
    command = ("cargo", "build", "--release", "--quiet", "--package", "tunneld-load")
    done = subprocess.run(
        [*command, "--message-format", "json"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    programs = [message["executable"] for message in messages if message.get("executable")]
    if done.returncode != 0 or len(programs) != 1:
        msg = f"bench: {' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
        raise LabError(msg)
    return str(programs[0])


def tcp(overlay: Overlay, *, streams: int, duration_s: int) -> Figures:
    """Measures a bulk transfer by iperf3."""
    port = str(next(_ports))
    pair = overlay.pair
    client = (
        *("iperf3", "-J", "-c", str(pair.target), "-p", port, "-C", CONGESTION),
        *("-t", str(duration_s), "-P", str(streams)),
    )
    with _receiver(overlay, ("iperf3", "-s", "-1", "-p", port, "--forceflush"), "listening"):
        before = cpu.read(overlay.pids)
        said = namespaces.run(
            *namespaces.inside(pair.a.container, *client), timeout_s=duration_s + _END_TIMEOUT_S
        )
        usage = cpu.between(before, cpu.read(overlay.pids))
    end = json.loads(said)["end"]
    size_bytes = end["sum_received"]["bytes"]
    return {
        "bits_per_s": round(end["sum_received"]["bits_per_second"]),
        "bytes": size_bytes,
        "retransmits": end["sum_sent"]["retransmits"],
        "tunnel_cpu_s_per_gb": round(usage.tunnel_cpu_s / size_bytes * 1e9, 4),
        "machine_cpu_s_per_gb": round(usage.machine_cpu_s / size_bytes * 1e9, 4),
        **usage.fields(),
    }


def flood(overlay: Overlay, *, duration_s: float) -> Figures:
    """Measures how many small datagrams arrive when one sender sends all it can."""
    port = next(_ports)
    target = _endpoint(overlay, port)
    receive = (load_program(), "receive", target, f"{duration_s + _READY_TIMEOUT_S:g}")
    with _receiver(overlay, receive, "ready") as receiver:
        send = (load_program(), "send", target, str(FLOOD_BYTES), f"{duration_s:g}")
        before = cpu.read(overlay.pids)
        sent = json.loads(namespaces.run(*namespaces.inside(overlay.pair.a.container, *send)))
        got = json.loads(receiver.last_line())
        usage = cpu.between(before, cpu.read(overlay.pids))
    # A queue that drains after the sender stopped must not count as a higher rate.
    span_s = max(sent["seconds"], got["seconds"])
    return {
        "delivered_per_s": round(got["received"] / span_s),
        "offered_per_s": round(sent["sent"] / sent["seconds"]),
        "sent": sent["sent"],
        "received": got["received"],
        "late": got["late"],
        "tunnel_us_per_datagram": round(usage.tunnel_cpu_s / max(1, got["received"]) * 1e6, 3),
        **usage.fields(),
    }


def round_trips(overlay: Overlay, *, count: int) -> Figures:
    """Measures single round trips on an idle tunnel."""
    target = _endpoint(overlay, next(_ports))
    with _receiver(overlay, (load_program(), "echo", target), "ready"):
        ask = (load_program(), "round-trips", target, str(count), str(ROUND_TRIP_INTERVAL_US))
        before = cpu.read(overlay.pids)
        said = json.loads(
            namespaces.run(
                *namespaces.inside(overlay.pair.a.container, *ask), timeout_s=_END_TIMEOUT_S + count
            )
        )
        usage = cpu.between(before, cpu.read(overlay.pids))
    return {"lost": said["sent"] - len(said["round_trips_us"]), **said, **usage.fields()}


def _endpoint(overlay: Overlay, port: int) -> str:
    target = overlay.pair.target
    return f"[{target}]:{port}" if target.version == 6 else f"{target}:{port}"


class _Receiver:
    """The far side of a measurement; what it says is in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def last_line(self) -> str:
        """Waits for its end; returns its last line.

        Raises:
            LabError: it failed or does not end.
        """
        try:
            status = self.process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            msg = f"bench: {self.process.args!r} does not end; its log: {self.log}"
            raise LabError(msg) from error
        if status != 0:
            msg = f"bench: {self.process.args!r} ended with {status}: {self.log.read_text()}"
            raise LabError(msg)
        return self.log.read_text().splitlines()[-1]


@contextmanager
def _receiver(overlay: Overlay, argv: tuple[str, ...], ready: str) -> Iterator[_Receiver]:
    host = overlay.pair.b
    log = host.directory / "receiver.log"
    log.unlink(missing_ok=True)
    process = namespaces.start(host.container, *argv, log=log)
    try:

        def is_ready() -> bool:
            if process.poll() is not None and ready not in log.read_text():
                msg = f"bench: {' '.join(argv)} ended: {log.read_text().strip()}"
                raise LabError(msg)
            return ready in log.read_text()

        if not namespaces.became_true(is_ready, _READY_TIMEOUT_S, poll_s=0.005):
            msg = f"bench: {' '.join(argv)} is not ready; its log: {log}"
            raise LabError(msg)
        yield _Receiver(process, log)
    finally:
        namespaces.stop([process])
