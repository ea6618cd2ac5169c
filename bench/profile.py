"""`python -m bench.profile`: where the daemons' CPU time goes under one TCP stream. Needs root.

Samples both daemons by their CPU clock while iperf3 runs; kernel stacks tell which system call the
time belongs to. Shares of one column overlap: a call's share holds what it calls.
Source: perf-record(1), perf-report(1).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.lab import environment, raw, traffic
from bench.lab.overlays import Tunneld
from bench.lab.topology import FLAVOURS, Flavour, remove_all
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.build import sole_use
from tunneld.lab.main_job import Interrupted, interruptible, uninterruptible

STREAM_S: Final = 5
PARTS: Final = {
    "read from the TUN device": ("tun_chr_read_iter",),
    "send to the underlay": ("__sys_sendmmsg", "__sys_sendmsg"),
    "segmentation by the kernel, anywhere": ("__skb_gso_segment",),
    "receive from the underlay": ("do_recvmmsg", "__sys_recvmsg"),
    "write to the TUN device, with the kernel's receive path behind it": ("tun_chr_write_iter",),
    "wait": ("__x64_sys_ppoll", "__x64_sys_poll", "__x64_sys_epoll_wait"),
    "netfilter, anywhere": ("nf_hook_slow",),
}
"""What a share is called, and the kernel's functions it is the sum of."""
_LIMIT_PERCENT: Final = 1.0
_LINE: Final = re.compile(
    r"^\s*(?P<share>[\d.]+)%\s+(?:\[.\]\s+)?(?P<name>\S.*?)\s*$", re.MULTILINE
)


def measure(flavour: Flavour, directory: Path) -> dict[str, Any]:
    """Returns shares of the daemons' CPU time, in percent, and what iperf3 got meanwhile."""
    overlay, data = Tunneld(directory), directory / "perf.data"
    overlay.pair.build(flavour)
    try:
        overlay.start()
        overlay.wait_connected()
        with _recording(overlay, data):
            figures = traffic.tcp(overlay, streams=1, duration_s=STREAM_S)
    finally:
        overlay.stop()
        remove_all()
    inclusive = _shares(data, "--children", "-F", "overhead_children,sym")
    return {
        "flavour": flavour,
        "parts": {
            part: round(sum(inclusive.get(name, 0.0) for name in functions), 1)
            for part, functions in PARTS.items()
        },
        "objects": _shares(data, "--no-children", "-F", "overhead,dso"),
        "functions": _shares(data, "--no-children", "-F", "overhead,sym"),
        **figures,
    }


@contextmanager
def _recording(overlay: Tunneld, data: Path) -> Iterator[None]:
    """Runs perf while the block runs.

    Raises:
        LabError: perf is not installed, or recorded nothing.
    """
    if shutil.which("perf") is None:
        msg = "bench: perf is not installed; on Debian: apt-get install linux-perf"
        raise LabError(msg)
    log = data.with_suffix(".log")
    process = namespaces.start(
        overlay.pair.a.namespace,
        *("perf", "record", "-e", "cpu-clock", "-F", "1999", "-g", "-o", str(data)),
        *("-p", ",".join(map(str, overlay.pids))),
        log=log,
    )
    try:
        yield
    finally:
        namespaces.stop([process])
    if not data.exists():
        msg = f"bench: perf recorded nothing: {log.read_text().strip()}"
        raise LabError(msg)


def _shares(data: Path, *options: str) -> dict[str, float]:
    """Returns what perf reports above the limit: percent by name."""
    said = namespaces.run(
        *("perf", "report", "-i", str(data), "--stdio", "-g", "none", *options),
        *("--percent-limit", str(_LIMIT_PERCENT)),
        timeout_s=120,
    )
    lines = "\n".join(line for line in said.splitlines() if not line.startswith("#"))
    return {found["name"]: float(found["share"]) for found in _LINE.finditer(lines)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--flavours", nargs="+", choices=FLAVOURS, default=["wire", "gso"])
    parser.add_argument("--nice", type=int, default=-5, help="for all that is measured")
    args = parser.parse_args()
    os.nice(args.nice)
    began = datetime.now(tz=UTC)
    samples = []
    try:
        with sole_use("bench"), interruptible():
            try:
                remove_all()
                for flavour in args.flavours:
                    with tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
                        samples.append(measure(flavour, Path(directory)))
                    print(flavour, samples[-1]["parts"], samples[-1]["objects"], flush=True)
            finally:
                with uninterruptible():
                    remove_all()
    except Interrupted as interruption:
        return interruption.exit_status
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    about = {"kind": "profile", "began": began.isoformat(timespec="seconds")}
    path = raw.place(began, "profile")
    raw.write(path, about | {"machine": environment.describe(), "samples": samples})
    print(f"raw figures: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
