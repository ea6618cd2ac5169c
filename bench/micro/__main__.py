"""Runs `tunneld-micro`: nanoseconds per packet, and instructions where valgrind is installed.

A round takes every case in turn; all rounds of a case are kept.

`python -m bench.micro [RAW.json]` from the root of the tree. Instructions are counted by
valgrind's callgrind as the difference of two runs, so that set-up does not count.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lab import environment, raw

ROOT = Path(__file__).parents[2]
RUNS = 200
"""A long enough difference between two runs of a case."""


def build() -> Path:
    """Builds the program; returns where it is."""
    argv = ("cargo", "build", "--quiet", "--release", "--package", "tunneld-micro")
    subprocess.run(argv, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "tunneld-micro"


def instructions(program: Path, name: str, runs: int) -> int:
    """Counts the instructions of a whole run of the program."""
    with tempfile.TemporaryDirectory() as folder:
        argv = (
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"),
            *(str(program), name, str(runs)),
        )
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if found is None:
        sys.exit(f"valgrind counted nothing: {done.stderr}")
    return int(found[1])


def main() -> None:
    began = datetime.now(tz=UTC)
    program = build()
    done = subprocess.run((str(program),), capture_output=True, text=True, check=True)
    cases: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
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
    if len(sys.argv) > 1:
        about = {"kind": "micro", "began": began.isoformat(timespec="seconds")}
        machine = {"machine": environment.describe()}
        raw.write(Path(sys.argv[1]), about | machine | {"samples": cases})


if __name__ == "__main__":
    main()
