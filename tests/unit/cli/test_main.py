"""The command line as a whole: help, version, exit statuses, one line per error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.wait import PATIENCE
from tests.unit.cli.conftest import Tunneld
from tunneld import __version__, cli
from tunneld.cli import SUMMARIES
from tunneld.errors import InterfaceError

pytestmark = pytest.mark.usefixtures("untouched_logging")

COMMANDS = [
    *([name] for name in SUMMARIES),
    ["network", "get"],
    ["network", "set"],
    ["network", "check"],
    ["docker", "network"],
    ["docker", "check"],
    *(["lab", name] for name in ("up", "run", "exec", "status", "down")),
]


@pytest.mark.parametrize("spelling", ["--help", "-help", "-h"])
def test_help_fits_one_screen(tunneld: Tunneld, spelling: str) -> None:
    outcome = tunneld(spelling)
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name in SUMMARIES:
        assert any(line.split()[:1] == [name] for line in lines), name


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_examples(tunneld: Tunneld, command: list[str]) -> None:
    outcome = tunneld(*command, "--help")
    assert outcome.status == 0
    assert f"examples:\n  {'tunneld ' + ' '.join(command[:1])}" in outcome.out.replace(
        "echo", "tunneld"
    )


@pytest.mark.parametrize("spelling", ["--version", "-version", "version"])
def test_version_is_printed(tunneld: Tunneld, spelling: str) -> None:
    outcome = tunneld(spelling)
    assert (outcome.status, outcome.out) == (0, f"tunneld {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "a command is missing"),
        (["statu"], "invalid choice: 'statu'"),
        (["run", "--foo"], "unknown option '--foo'"),
        (["run", "--workers=x"], "--workers: 'x' is not usable"),
        (["run", "--datapath=ebpf"], "--datapath: 'ebpf' is not usable"),
        (["run", "--encryption-floor", "most"], "--encryption-floor: 'most' is not usable"),
        (["run", "--plain-peers", "10.5.1.7/24"], "--plain-peers: '10.5.1.7/24' is not usable"),
        (["run", "--config", "/nonexistent"], "cannot read the config file /nonexistent"),
        (["status", "--jsn"], "unknown option '--jsn'; did you mean --json?"),
        (["lab", "up", "--host", "3"], "did you mean --hosts? (see: tunneld lab up --help)"),
        (["lab", "down", "--name", "../x"], "lab name '../x': expected"),
        (["network"], "required: ACTION"),
        (["network", "set"], "required: FILE"),
        (["leases", "--store", "memory"], "--store: 'memory' is not usable"),
    ],
)
def test_wrong_command_line_is_one_line_and_status_2(
    tunneld: Tunneld, arguments: list[str], says: str
) -> None:
    outcome = tunneld(*arguments)
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith("tunneld: ")
    assert outcome.err.count("\n") == 1
    assert says in outcome.err


def test_misspelt_key_in_the_config_file_is_one_line_and_status_2(
    tunneld: Tunneld, tmp_path: Path
) -> None:
    path = tmp_path / "tunneld.toml"
    path.write_text("ip-mask = true\n")
    outcome = tunneld("run", "--config", path)
    assert outcome.status == 2
    assert outcome.err == (
        f"tunneld: unknown key 'ip-mask' in the config file {path}; did you mean ip-masq?\n"
    )


def test_bad_variable_is_one_line_and_status_2(
    tunneld: Tunneld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNNELD_LOG_LEVEL", "loud")
    outcome = tunneld("run")
    assert outcome.status == 2
    assert "TUNNELD_LOG_LEVEL: 'loud' is not usable" in outcome.err


def test_password_in_the_environment_is_never_shown(
    tunneld: Tunneld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLANNELD_ETCD_PASSWORD", "s3cr3t")
    outcome = tunneld("leases")
    assert outcome.status == 2
    assert "FLANNELD_ETCD_PASSWORD: " in outcome.err
    assert "s3cr3t" not in outcome.out + outcome.err


def raising(error: BaseException) -> object:
    class Module:
        @staticmethod
        def add_parser(subparsers: object) -> None:
            subparsers.add_parser("version")  # type: ignore[attr-defined]

        @staticmethod
        def run(args: object) -> int:
            raise error

    return Module


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            InterfaceError("interface eth9 is not there"),
            1,
            "tunneld: interface eth9 is not there\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_error_of_a_command_becomes_its_status(
    tunneld: Tunneld,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    says: str,
) -> None:
    monkeypatch.setattr(cli, "_command", lambda _name: raising(error))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    outcome = tunneld("version")
    assert (outcome.status, outcome.err) == (status, says)


def test_unforeseen_error_leaves_its_traceback(
    tunneld: Tunneld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_command", lambda _name: raising(ZeroDivisionError("oh")))
    outcome = tunneld("version")
    assert outcome.status == 1
    assert "Traceback" in outcome.err
    assert "ZeroDivisionError: oh" in outcome.err


def test_module_can_be_run() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tunneld", "--version"],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert result.stdout == f"tunneld {__version__}\n"


def test_a_store_that_is_away_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tunneld", "leases", "--store", "sqlite:/nonexistent/leases.db"],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert result.returncode == 1
    assert result.stderr.startswith("tunneld: there is no store /nonexistent/leases.db")
    assert result.stderr.count("\n") == 1


def test_reader_that_stops_reading_is_no_traceback() -> None:
    result = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tunneld run --help | true"],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
