"""Rules for every source file: size, docstrings, unsafe, words that must not stand in the tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.repo.source import files, relative

MAX_LINES = 500
MAX_DOCSTRING_LINES = 12

PYTHON = files(".py", ".pyi")
PACKAGE = files(".py", ".pyi", under="tunneld")
RUST = files(".rs", under="native")
TEXT = tuple(
    path
    for path in files()
    if path.suffix not in {".so", ".pcap", ".png", ".bin"}
    and path.name not in {"LICENSE", "Cargo.lock"}
)

MAY_BE_UNSAFE = ("native/io/", "native/simd/")
UNSAFE = re.compile(r"\bunsafe\s+(?:\{|impl\b|fn\b|extern\b)")
# Paths of one person's machine, and notes to oneself.
PRIVATE_PATH = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work)/[\w.]")
NOTE_TO_SELF = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")


@pytest.mark.parametrize("path", PACKAGE + RUST, ids=relative)
def test_no_source_file_is_over_500_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_every_python_module_says_in_12_lines_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert len(docstring.splitlines()) <= MAX_DOCSTRING_LINES


@pytest.mark.parametrize("path", [p for p in RUST if p.name != "tests.rs"], ids=relative)
def test_every_rust_module_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("//!")


@pytest.mark.parametrize("path", RUST, ids=relative)
def test_unsafe_stands_only_where_it_may_and_with_its_reason(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        code = line.split("//")[0]
        if not UNSAFE.search(code):
            continue
        assert relative(path).startswith(MAY_BE_UNSAFE), f"line {number + 1}"
        above = "\n".join(lines[max(0, number - 10) : number])
        assert "SAFETY:" in above or "# Safety" in above, f"line {number + 1}"


@pytest.mark.parametrize("path", TEXT, ids=relative)
def test_no_file_holds_private_paths_or_notes_to_oneself(path: Path) -> None:
    text = path.read_text()
    assert not PRIVATE_PATH.search(text)
    assert not NOTE_TO_SELF.search(text)


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    odd = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [relative(path) for path in PYTHON + RUST if path.stem in odd]
