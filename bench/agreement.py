"""`python -m bench.agreement`: whether `tunneld bench` sees what other tools see. Needs root.

On one path between two containers, in turn in every round: TCP next to iperf3, at full speed and
through a bottleneck, idle round trips next to ping; and a cipher at 16 KiB next to `openssl speed`.
At full speed senders and receivers are part of what is measured: those of iperf3 cost more CPU.
ping is answered by the kernel, and `openssl speed` sets up no nonce and makes no tag.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from bench.lab.session import alone
from tunneld.bench import crypto, sides
from tunneld.bench.local.agents import LocalPair
from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.paths import PATHS
from tunneld.errors import LabError
from tunneld.lab import namespaces

_SIZE_BYTES: Final = 16_384
_STREAM_S: Final = 2
_BOTTLENECK: Final = "300mbit"
Measure = Callable[[], float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.agreement", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--paths", nargs="+", choices=list(PATHS), default=["no tunnel", "raw"])
    args = parser.parse_args()
    try:
        with alone(), tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
            for path in args.paths:
                _on(PATHS[path](Path(directory)), args.rounds)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    _say("aes-256-gcm at 16 KiB, GB/s, `openssl speed`", args.rounds, _aead(), _openssl_speed)
    return 0


def _on(overlay: Overlay, rounds: int) -> None:
    overlay.pair.build("wire")
    overlay.start()
    try:
        overlay.wait_connected()
        ends = LocalPair(
            overlay.pair.a.container,
            overlay.pair.b.container,
            str(overlay.pair.target),
            overlay.pids,
        )
        with closing(ends):
            ends.wait_ready()
            _say(
                f"{overlay.name}: TCP, Gbit/s, iperf3",
                rounds,
                lambda: sides.tcp(ends, streams=1, duration_s=_STREAM_S).values["bits_per_s"] / 1e9,
                lambda: _iperf3(overlay),
            )
            _throttle(overlay)
            _say(
                f"{overlay.name}: TCP at {_BOTTLENECK}, Gbit/s, iperf3",
                rounds,
                lambda: sides.tcp(ends, streams=1, duration_s=_STREAM_S).values["bits_per_s"] / 1e9,
                lambda: _iperf3(overlay),
            )
            _say(
                f"{overlay.name}: idle round trip, us, ping",
                rounds,
                lambda: sides.round_trips(ends, duration_s=1.0).values["p50"],
                lambda: _ping(overlay),
            )
    finally:
        overlay.stop()


def _throttle(overlay: Overlay) -> None:
    shape = ("tbf", "rate", _BOTTLENECK, "burst", "200k", "limit", "2m")
    tc = ("tc", "qdisc", "replace", "dev", "u0", "root", *shape)
    namespaces.run(*namespaces.inside(overlay.pair.a.namespace, *tc))


def _say(what: str, rounds: int, ours: Measure, theirs: Measure) -> None:
    """Prints the medians of both, and that of the ratios within a round."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    one, other = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(mine / yours for mine, yours in pairs)
    verdict = "agrees" if abs(ratio - 1) <= 0.05 else "differs"
    print(f"{what}: {one:.3f} and {other:.3f}, ratio {ratio:.3f}: {verdict}", flush=True)


def _iperf3(overlay: Overlay) -> float:
    near, far = overlay.pair.a.container, overlay.pair.b.container
    log = overlay.pair.b.directory / "iperf3.log"
    log.unlink(missing_ok=True)
    server = namespaces.start(far, "iperf3", "-s", "-1", "--forceflush", log=log)
    try:
        if not namespaces.became_true(lambda: "listening" in log.read_text(), 30.0):
            msg = "bench: iperf3 does not listen"
            raise LabError(msg)
        client = ("iperf3", "-J", "-c", str(overlay.pair.target), "-C", "cubic")
        said = namespaces.run(*namespaces.inside(near, *client, "-t", str(_STREAM_S)))
    finally:
        namespaces.stop([server])
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _ping(overlay: Overlay) -> float:
    argv = ("ping", "-n", "-i", "0.002", "-c", "400", str(overlay.pair.target))
    said = namespaces.run(*namespaces.inside(overlay.pair.a.container, *argv))
    return statistics.median(float(ms) for ms in re.findall(r"time=([0-9.]+) ms", said)) * 1e3


def _aead() -> Measure:
    [case] = [
        case
        for case in crypto.openssl_cases([_SIZE_BYTES])
        if case.operation == "seal" and case.subject.endswith("aes-256-gcm")
    ]

    def measure() -> float:
        count, nanoseconds = case.timed(1.0)
        return case.size_bytes * count / nanoseconds

    return measure


def _openssl_speed() -> float:
    argv = ("openssl", "speed", "-evp", "aes-256-gcm", "-bytes", str(_SIZE_BYTES), "-seconds", "1")
    said = namespaces.run(*argv, "-mr")
    [rate] = re.findall(r"^\+F:\d+:[^:]+:([0-9.]+)$", said, re.MULTILINE)
    return float(rate) / 1e9


if __name__ == "__main__":
    sys.exit(main())
