"""A lab's name is one command's at a time; other names are nobody's business."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunneld.errors import LabError, UsageError
from tunneld.lab import build, topology
from tunneld.lab.build import find, is_there, sole_use, take_down


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "labs"
    for module in (build, topology):
        monkeypatch.setattr(module, "ROOT", path)
    return path


def test_a_name_in_use_is_refused_and_free_again_afterwards(root: Path) -> None:
    with sole_use("one"), pytest.raises(LabError, match="another command"), sole_use("one"):
        pass
    with sole_use("one"):
        assert root.exists()
    assert not root.exists()


def test_labs_that_begin_and_end_beside_each_other_do_not_disturb(root: Path) -> None:
    def use(name: str) -> None:
        for _ in range(500):
            with sole_use(name):
                pass

    with ThreadPoolExecutor() as pool:
        list(pool.map(use, ("one", "two", "three")))
    assert not root.exists()


def test_a_name_that_is_a_path_leads_to_no_other_directory(root: Path) -> None:
    precious = root.parent / "precious"
    precious.mkdir()
    for name in (str(precious), "../precious", "..", ""):
        for command in (find, is_there, take_down):
            with pytest.raises(UsageError, match="lower-case letters and digits"):
                command(name)
        with pytest.raises(UsageError, match="lower-case letters and digits"), sole_use(name):
            pass
    assert precious.exists()
    assert list(root.parent.iterdir()) == [precious]
