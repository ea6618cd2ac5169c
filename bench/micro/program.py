"""`tunneld-micro`, the program: builds it, and runs some of its cases."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


def build() -> Path:
    """Builds the program; returns where it is."""
    argv = ("cargo", "build", "--quiet", "--release", "--package", "tunneld-micro")
    subprocess.run(argv, cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "tunneld-micro"


def measure(program: Path, beginning: str = "") -> list[dict[str, Any]]:
    """Returns what the cases whose names begin so cost: nanoseconds per packet, by the round."""
    argv = (str(program), beginning)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


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
