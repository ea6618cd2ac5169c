"""`python -m bench.profile`: where the daemons' CPU time goes, figure by figure. Needs root.

Samples both daemons by their CPU clock while a figure is measured; kernel stacks tell which system
call the time belongs to. Shares of one row overlap: a call's share holds what it calls.
Source: perf-record(1), perf-report(1).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.lab import rounds, traffic
from bench.lab.rounds import FIGURES, Figure, Plan
from bench.lab.session import carry_out
from tunneld.bench.local.ours import Tunneld, TunneldEsp
from tunneld.bench.local.pair import FLAVOURS, Flavour, remove_all
from tunneld.errors import LabError
from tunneld.lab import namespaces

PLAN: Final = Plan(rounds=1, flavours={}, stream_s=5, flood_s=3.0, round_trips=1_500)
"""How long each figure is measured: some thousand samples."""
PARTS: Final = {
    "read TUN": ("tun_chr_read_iter",),
    "send": ("__sys_sendmmsg", "__sys_sendmsg"),
    "kernel's segmentation": ("__skb_gso_segment",),
    "receive": ("do_recvmmsg", "__sys_recvmsg"),
    "write TUN": ("tun_chr_write_iter",),
    "wait": ("__x64_sys_ppoll", "__x64_sys_poll", "__x64_sys_epoll_wait"),
    "netfilter": ("nf_hook_slow",),
}
"""What a share is called, and the kernel's functions it is the sum of."""
_LIMIT_PERCENT: Final = 1.0
_LINE: Final = re.compile(
    r"^\s*(?P<share>[\d.]+)%\s+(?:\[.\]\s+)?(?P<name>\S.*?)\s*$", re.MULTILINE
)


def measure(
    kind: type[Tunneld], figure: Figure, flavour: Flavour, directory: Path
) -> dict[str, Any]:
    """Returns shares of the daemons' CPU time, in percent, and what was seen meanwhile."""
    traffic.load_program()  # built before anything is sampled
    overlay, data = kind(directory), directory / "perf.data"
    overlay.pair.build(flavour)
    try:
        overlay.start()
        overlay.wait_connected()
        with _recording(overlay, data):
            seen = rounds.measure(figure, overlay, PLAN)
    finally:
        overlay.stop()
        remove_all()
    inclusive = _shares(data, "--children", "-F", "overhead_children,sym")
    return {
        "figure": figure,
        "flavour": flavour,
        "overlay": overlay.name,
        "parts": {
            part: round(sum(inclusive.get(name, 0.0) for name in functions), 1)
            for part, functions in PARTS.items()
        },
        "objects": _shares(data, "--no-children", "-F", "overhead,dso"),
        "functions": _shares(data, "--no-children", "-F", "overhead,sym"),
        **{name: value for name, value in seen.items() if name != "round_trips_us"},
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
    parser.add_argument("--figures", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--esp", action="store_true", help="with encryption required")
    parser.add_argument("--nice", type=int, default=-5, help="for all that is measured")
    args = parser.parse_args()
    os.nice(args.nice)
    return carry_out(
        "profile-esp" if args.esp else "profile",
        (
            partial(measure, TunneldEsp if args.esp else Tunneld, figure, flavour)
            for figure in args.figures
            for flavour in args.flavours
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
