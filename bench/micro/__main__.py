"""Runs `tunneld-micro`: nanoseconds per packet, and instructions where valgrind is installed.

A round takes every case in turn; all rounds of a case are kept.

`python -m bench.micro [RAW.json] [--cases BEGINNING]` from the root of the tree. Instructions are
counted by valgrind's callgrind as the difference of two runs, so that set-up does not count. What
valgrind does not know (AES on vectors of 256 bits and more) a library does in another way there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from datetime import UTC, datetime
from pathlib import Path

from bench.lab import environment, raw
from bench.micro.program import build, instructions, measure

RUNS = 200
"""A long enough difference between two runs of a case."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro")
    parser.add_argument("raw", nargs="?", type=Path, help="where the raw figures go")
    parser.add_argument("--cases", default="", metavar="BEGINNING", help="of their names")
    args = parser.parse_args()
    began = datetime.now(tz=UTC)
    program = build()
    cases = measure(program, args.cases)
    has_valgrind = shutil.which("valgrind") is not None
    print(f"{'case':<46} {'best ns':>10} {'median ns':>10} {'instructions':>14}")
    for case in cases:
        count = None
        # Setting up the table of a million prefixes takes valgrind too long.
        if has_valgrind and not case["name"].endswith(" 1000000"):
            few, many = (instructions(program, case["name"], runs) for runs in (RUNS, 2 * RUNS))
            count = round((many - few) / RUNS / case["packets_per_run"], 1)
        case["instructions_per_packet"] = count
        shown = "-" if count is None else count
        rounds = case["ns_per_packet"]
        times = f"{min(rounds):>10.1f} {statistics.median(rounds):>10.1f}"
        print(f"{case['name']:<46} {times} {shown:>14}", flush=True)
    if args.raw is not None:
        about = {"kind": "micro", "began": began.isoformat(timespec="seconds")}
        machine = {"machine": environment.describe()}
        raw.write(args.raw, about | machine | {"samples": cases})


if __name__ == "__main__":
    main()
