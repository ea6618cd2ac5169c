"""The one entry: every promised target is there and explained; CI runs what people run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.wait import wait_until
from tests.repo.source import ROOT

PROMISED = {
    *("run", "test", "lint", "fmt", "build", "bench", "fuzz", "docs", "clean", "help", "setup")
}


# Not a part of the make, nor of its notes, that may be running the caller.
ENVIRONMENT = {
    **{name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "STAGES"))},
    "PYTHONPATH": str(ROOT),
}


def make(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *argv],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def groups(**tests: Path) -> list[str]:
    """Returns the options of make that put these groups of tests in place of the real ones."""
    each = [f"TESTS_{name}=-p tests.support.ending {path}" for name, path in tests.items()]
    return [
        "stage-pytest",
        f"BIN={Path(sys.executable).parent}",
        f"TEST_GROUPS={' '.join(tests)}",
        *each,
    ]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_help_lists_every_promised_target_with_a_sentence() -> None:
    done = make("help")
    listed = dict(re.findall(r"^  (\w+) +(\S.+)$", done.stdout, re.MULTILINE))
    assert done.returncode == 0
    assert listed.keys() >= PROMISED


def test_make_alone_is_help() -> None:
    assert make().stdout == make("help").stdout


def test_ci_runs_make_test() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_every_test_is_in_one_group() -> None:
    text = (ROOT / "Makefile").read_text()
    named = re.search(r"^TEST_GROUPS := (.+)$", text, re.MULTILINE)
    assert named
    seen: list[Path] = []
    for group in named[1].split():
        paths = re.search(rf"^TESTS_{group} := (.+)$", text, re.MULTILINE)
        assert paths, group
        left_out = tuple(path[len("--ignore=") :] for path in paths[1].split() if "=" in path)
        for folder in (path for path in paths[1].split() if "=" not in path):
            seen += [
                path
                for path in (ROOT / folder).rglob("test_*.py")
                if not any(path.is_relative_to(ROOT / other) for other in left_out)
            ]
    assert sorted(seen) == sorted((ROOT / "tests").rglob("test_*.py"))


def test_what_tests_fetch_is_there_before_the_first_group() -> None:
    stages = re.findall(r"STAGE\) \"?(\w+)", (ROOT / "Makefile").read_text())
    assert stages[:5] == ["setup", "rust", "lint", "fetch", "pytest"]


def test_all_groups_are_run_and_one_that_fails_is_named(tmp_path: Path) -> None:
    done = make(
        *groups(
            good=written(tmp_path / "test_good.py", "def test_it(): print('unseen')"),
            bad=written(tmp_path / "test_bad.py", "def test_it(): assert 6 * 9 == 42"),
            other=written(tmp_path / "test_other.py", "def test_it(): pass\ndef test_more(): pass"),
        ),
        "TEST_JOBS=1",
    )
    assert done.returncode != 0
    for group in ("good", "bad", "other"):
        assert f"pytest {group}: begins" in done.stdout
    assert "assert (6 * 9) == 42" in done.stdout
    closing = re.findall(r"^(\d \w+) in [\d.]+s$", done.stdout, re.MULTILINE)
    assert closing == ["1 passed", "1 failed", "2 passed"]
    assert re.search(r"pytest-bad\] Error 1$", done.stderr, re.MULTILINE)
    assert "pytest-good]" not in done.stderr


def test_what_a_group_says_is_not_mixed_with_what_others_say(tmp_path: Path) -> None:
    """Each of two groups waits in its middle until the other one has begun too."""
    meet = """
import pathlib, time
def test_it():
    here = pathlib.Path(__file__)
    print("first", here.stem)
    here.with_suffix(".begun").touch()
    while len(list(here.parent.glob("*.begun"))) < 2:
        time.sleep(0.01)
    print("last", here.stem)
    assert not here.stem
"""
    done = make(
        *groups(a=written(tmp_path / "test_a.py", meet), b=written(tmp_path / "test_b.py", meet))
    )
    said = re.findall(r"^(?:first|last) test_(\w)$|^== pytest (\w)", done.stdout, re.MULTILINE)
    assert ["".join(names) for names in said] in (["a"] * 3 + ["b"] * 3, ["b"] * 3 + ["a"] * 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_groups_which_take_away_what_they_made(
    tmp_path: Path, number: signal.Signals
) -> None:
    wait = """
import pathlib, time, pytest
@pytest.fixture
def path():
    path = pathlib.Path(__file__).with_suffix(".made")
    yield path
    path.unlink()
def test_it(path):
    path.touch()
    time.sleep(600)
"""
    names = ("a", "b")
    options = groups(**{name: written(tmp_path / f"test_{name}.py", wait) for name in names})
    # As from a terminal: Ctrl-C is for the whole process group.
    process = subprocess.Popen(
        ["make", *options],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("*.made"))) == len(names), 30.0, "both groups")
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=120.0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert not list(tmp_path.glob("*.made"))
    for name in names:
        assert f"== pytest {name}\n" in said
    assert said.count("no tests ran") == len(names)


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
