"""A measuring program leaves a raw file and no host, also where a measurement fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.lab import raw, session
from tunneld.bench.local import pair as topology
from tunneld.errors import LabError
from tunneld.lab import namespaces

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def results(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "results"
    monkeypatch.setattr(raw, "RESULTS", place)
    return place


def hosts() -> list[str]:
    return namespaces.existing(topology.PREFIX)


def measured(directory: Path) -> dict[str, Any]:
    assert list(directory.iterdir()) == []
    namespaces.create(f"{topology.PREFIX}session")
    return {"seen": 1}


def failing(_directory: Path) -> dict[str, Any]:
    msg = "bench: nothing to see"
    raise LabError(msg)


def test_what_was_seen_is_in_a_raw_file_of_its_kind(results: Path) -> None:
    assert session.carry_out("trial", [measured]) == 0
    (path,) = results.iterdir()
    document = raw.read(path)
    assert path.name.endswith("-trial.json")
    assert (document["kind"], document["samples"]) == ("trial", [{"seen": 1}])
    assert document["machine"]["cpus"] > 0
    assert hosts() == []


def test_a_failure_is_said_in_a_line_and_leaves_no_file_and_no_host(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session.carry_out("trial", [measured, failing]) == 1
    assert capsys.readouterr().err == "bench: nothing to see\n"
    assert not results.exists()
    assert hosts() == []
