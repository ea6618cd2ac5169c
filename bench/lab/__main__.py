"""`python -m bench.lab`: measures, writes the raw figures, prints the table. Needs root.

python -m bench.lab                    the figures of docs/performance.md, about 25 minutes
python -m bench.lab --backends         vxlan and IPv6 beside raw IPv4
python -m bench.lab --short            a first look, under 3 minutes (`make bench`)
python -m bench.lab --flavours gso --figures tcp1 --rounds 3 --tunneld-options '--workers 2'
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lab import environment, raw
from bench.lab.catalogue import OVERLAYS
from bench.lab.rounds import BACKEND_TURNS, FIGURES, TURNS, Bench, Plan
from bench.lab.session import alone
from bench.report import backends
from bench.report.evaluation import evaluate
from bench.report.tables import as_text
from tunneld.bench.local.ours import Tunneld
from tunneld.bench.local.pair import FLAVOURS
from tunneld.errors import LabError
from tunneld.lab.main_job import Interrupted


def main() -> int:
    args = _parser().parse_args()
    os.nice(args.nice)
    began = datetime.now(tz=UTC)
    usual = "backends" if args.backends else "short" if args.short else "lab"
    path = raw.place(began, args.what or usual)
    document: dict[str, Any] = {
        "kind": "backends" if args.backends else "lab",
        "began": began.isoformat(timespec="seconds"),
        "machine": environment.describe(),
    }
    try:
        with alone():
            _run(_plan(args), document, path)
    except Interrupted as interruption:
        return interruption.exit_status
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    seen = evaluate(raw.read(path))
    print(backends.as_text(seen) if args.backends else as_text(seen))
    print(f"raw figures: {path}")
    return 0


def _run(plan: Plan, document: dict[str, Any], path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
        bench = Bench(plan, Path(directory), _say)
        for _ in bench.run():
            seen = {"flavours": bench.flavours, "samples": bench.samples}
            raw.write(path, document | {"plan": asdict(plan)} | seen)


def _plan(args: argparse.Namespace) -> Plan:
    figures = args.figures
    # One figure of the table is about GRO at the receiver, and it is tcp1.
    behind_gro = [figure for figure in figures if figure == "tcp1"]
    flavours = {
        flavour: behind_gro if flavour == "wiregro" else figures for flavour in args.flavours
    }
    turns = BACKEND_TURNS if args.backends else TURNS
    short = Plan(rounds=2, flavours=flavours, stream_s=1, flood_s=0.5, round_trips=200)
    plan = short if args.short else Plan(rounds=10, flavours=flavours)
    return replace(
        plan,
        rounds=args.rounds or plan.rounds,
        turns=[name for name in turns if name not in args.without],
        options={
            name: tuple(shlex.split(args.tunneld_options))
            for name, overlay in OVERLAYS.items()
            if issubclass(overlay, Tunneld)
        },
        quiet_wait_s=args.quiet_wait,
        conntrack=args.conntrack,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="short measurements, two rounds")
    parser.add_argument(
        "--backends",
        action="store_true",
        help="tunneld's udp beside its vxlan and IPv6, in place of the others",
    )
    parser.add_argument("--rounds", type=int, help="rounds of every figure (default: 10)")
    choice: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--flavours", choices=FLAVOURS, default=list(FLAVOURS), **choice)
    parser.add_argument("--figures", choices=FIGURES, default=list(FIGURES), **choice)
    parser.add_argument("--without", choices={*TURNS, *BACKEND_TURNS}, default=[], **choice)
    parser.add_argument(
        "--quiet-wait",
        type=float,
        default=0.0,
        metavar="S",
        help="wait this long at most, before each figure, for other programs to calm down",
    )
    parser.add_argument("--tunneld-options", default="", help="further options of `tunneld run`")
    parser.add_argument(
        "--conntrack",
        action="store_true",
        help="give every host a NAT chain, so that connections are tracked for all alike",
    )
    parser.add_argument("--nice", type=int, default=-5, help="for all that is measured")
    parser.add_argument("--what", help="end of the raw file's name (default: lab, or short)")
    return parser


def _say(line: str) -> None:
    print(f"{datetime.now(tz=UTC):%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
