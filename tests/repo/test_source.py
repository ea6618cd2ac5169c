"""Rules for every source file: size, docstrings, unsafe, words that must not stand in the tree."""

from __future__ import annotations

import ast
import re

from tests.repo.source import files, relative

MAX_LINES = 500
MAX_DOCSTRING_LINES = 12

PYTHON = files(".py", ".pyi")
PACKAGE = files(".py", ".pyi", under="tunneld")
BED = files(".py", under="testbed")
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


def test_no_source_file_is_over_500_lines() -> None:
    sizes = {relative(path): len(path.read_text().splitlines()) for path in PACKAGE + RUST + BED}
    assert not {path: lines for path, lines in sizes.items() if lines > MAX_LINES}


def test_every_python_module_says_in_12_lines_what_it_is() -> None:
    said = {relative(p): ast.get_docstring(ast.parse(p.read_text())) or "" for p in PACKAGE + BED}
    assert not [p for p, text in said.items() if not text]
    assert not [p for p, text in said.items() if len(text.splitlines()) > MAX_DOCSTRING_LINES]


def test_every_rust_module_says_what_it_is() -> None:
    modules = [path for path in RUST if path.name != "tests.rs"]
    assert not [relative(path) for path in modules if not path.read_text().startswith("//!")]


def test_unsafe_stands_only_where_it_may_and_with_its_reason() -> None:
    misplaced, unreasoned = [], []
    for path in RUST:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if not UNSAFE.search(line.split("//")[0]):
                continue
            here = f"{relative(path)}:{number + 1}"
            above = "\n".join(lines[max(0, number - 10) : number])
            if not relative(path).startswith(MAY_BE_UNSAFE):
                misplaced.append(here)
            if "SAFETY:" not in above and "# Safety" not in above:
                unreasoned.append(here)
    assert not misplaced
    assert not unreasoned


def test_no_file_holds_private_paths_or_notes_to_oneself() -> None:
    texts = {relative(path): path.read_text() for path in TEXT}
    assert not [path for path, text in texts.items() if PRIVATE_PATH.search(text)]
    assert not [path for path, text in texts.items() if NOTE_TO_SELF.search(text)]


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    odd = {"utils", "util", "helpers", "helper", "misc", "common"}
    assert not [relative(path) for path in PYTHON + RUST if path.stem in odd]
