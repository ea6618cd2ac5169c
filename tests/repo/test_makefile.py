"""The one entry: every promised target is there and explained; CI runs what people run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.repo.source import ROOT

PROMISED = {
    *("run", "test", "lint", "fmt", "build", "bench", "fuzz", "docs", "clean", "help", "setup")
}


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *argv], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_promised_target_with_a_sentence() -> None:
    done = make("help")
    listed = dict(re.findall(r"^  (\w+) +(\S.+)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0
    assert listed.keys() >= PROMISED


def test_make_alone_is_help() -> None:
    assert make().stdout == make("help").stdout


def test_ci_runs_make_test() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_a_machine_without_rust_is_told_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(sys.executable)
    for tool in ("bash", "cc", "cut", "head", "sort", "uname"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    done = subprocess.run(
        ["/bin/bash", "tools/check-tools.sh", "python3"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "setup: cargo and rustc are missing; install Rust 1.85 or newer" in line


def test_every_pinned_package_has_an_exact_version() -> None:
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
