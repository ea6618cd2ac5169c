"""A lab's name is one command's at a time; other names are nobody's business."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunneld.errors import LabError
from tunneld.lab import build
from tunneld.lab.build import sole_use


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "labs"
    monkeypatch.setattr(build, "ROOT", path)
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
