"""docs/performance.md is what its raw files come to, and can be made from others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.lab import raw
from bench.report import document
from tunneld.errors import UsageError


def test_the_page_holds_what_its_raw_files_come_to() -> None:
    page = document.PAGE.read_text()
    assert document.filled(page) == page


def test_the_plots_show_what_the_raw_file_comes_to() -> None:
    made = document.plots(document.PAGE.read_text())
    assert made
    assert {place: place.read_text() for place in made} == made


def test_the_plots_are_well_formed_and_shown_on_the_page() -> None:
    page = document.PAGE.read_text()
    for place in document.PLOTS.iterdir():
        assert ElementTree.parse(place).getroot().tag.endswith("svg")
        assert f"](performance/{place.name})" in page


def test_every_table_of_the_page_has_a_raw_file_in_the_tree() -> None:
    page = document.PAGE.read_text()
    named = re.findall(r"<!-- begin: [\w-]+ of (\S+) -->", page)
    assert named
    assert all((document.ROOT / name).is_file() for name in named)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the tree."""
    monkeypatch.setattr(document, "ROOT", tmp_path)
    return tmp_path


def raw_file(place: Path, kind: str) -> Path:
    place.write_text(json.dumps({"kind": kind}))
    return place


def test_marks_are_set_to_raw_files_of_their_kind(tree: Path) -> None:
    page = "<!-- begin: {} of {} -->\n<!-- end: {} -->\n"
    old = page.format("aims", "old.json", "aims") + page.format("other", "old.json", "other")
    new = page.format("aims", "new.json", "aims") + page.format("other", "old.json", "other")
    assert document.with_raw(old, raw_file(tree / "new.json", "lab")) == new
    with pytest.raises(UsageError, match="kind is 'odd'"):
        document.with_raw(old, raw_file(tree / "odd.json", "odd"))


def test_a_raw_file_outside_the_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="put it into bench/results"):
        document.with_raw("", raw_file(tmp_path / "raw.json", "lab"))


def test_raw_figures_are_read_back_as_they_were(tmp_path: Path) -> None:
    seen = {"kind": "lab", "machine": {"cpus": 2}, "samples": [{"round": 1}, {"round": 2}]}
    raw.write(tmp_path / "new" / "raw.json", seen)
    assert raw.read(tmp_path / "new" / "raw.json") == seen
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["raw.json"]
