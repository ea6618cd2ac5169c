"""What tells a machine: the same at every boot, and never the id itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunneld.host.machine import machine

ID = "6b1a0f7c8d3e4f5a9b2c1d0e7f6a5b4c"


def test_machine_is_told_by_a_hash_of_its_id(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    file.write_text(f"{ID}\n")
    found = machine([tmp_path / "none", file])
    assert found is not None
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert found != ID
    assert machine([file]) == found
    file.write_text(f"{ID[:-1]}d\n")
    assert machine([file]) != found


@pytest.mark.parametrize("text", ["", "uninitialized\n", "0" * 32, ID[:-1], f"{ID}0", ID.upper()])
def test_machine_without_an_id_has_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "machine-id"
    file.write_text(text)
    assert machine([file]) is None
    file.unlink()
    file.mkdir()
    assert machine([file, tmp_path / "none"]) is None
