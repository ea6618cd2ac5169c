"""Runs command lines in this process, against real stores and sockets of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunneld.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    status: int
    out: str
    err: str


Tunneld = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _nothing_from_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("TUNNELD_", "FLANNELD_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr("tunneld.config.DEFAULT_CONFIG_FILE", str(tmp_path / "none.toml"))
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def tunneld(capfdbinary: pytest.CaptureFixture[bytes]) -> Tunneld:
    """Returns a function that runs a command line."""

    def run(*arguments: object) -> Outcome:
        status = main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Outcome(status, captured.out.decode(), captured.err.decode())

    return run


@pytest.fixture
def store_option(tmp_path: Path) -> str:
    """Returns the --store option of an embedded store of the test's own."""
    return f"--store=sqlite:{tmp_path / 'leases.db'}"
