"""Puts tables into docs/performance.md between marks; the words around them are written by hand.

    <!-- begin: aims of bench/results/NAME.json -->
    ...
    <!-- end: aims -->

A mark names the raw file, so that the page can always be made again, and a test proves that it is
what its raw files come to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.lab import raw
from bench.recovery import tables as recovery
from bench.report import backends, encryption, tables
from bench.report.evaluation import Evaluation, evaluate
from bench.report.plot import charts
from tunneld.errors import UsageError

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs/performance.md"
PLOTS: Final = ROOT / "docs/performance"

_BLOCK: Final = re.compile(
    r"<!-- begin: (?P<name>[\w-]+) of (?P<raw>\S+) -->\n.*?<!-- end: (?P=name) -->", re.DOTALL
)


def _flavour(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda document: tables.as_markdown(tables.flavour(evaluate(document), name))


BLOCKS: Final[dict[str, dict[str, Callable[[dict[str, Any]], str]]]] = {
    "lab": {
        "aims": lambda document: tables.as_markdown(tables.aims(evaluate(document))),
        "machine": lambda document: tables.as_markdown(tables.machine(evaluate(document))),
        **{name: _flavour(name) for name in ("wire", "gso", "wiregro")},
    },
    "encryption": {
        "encryption": encryption.as_page,
        "encryption-wire": lambda document: tables.as_markdown(
            encryption.flavour(document, "wire")
        ),
        "encryption-gso": lambda document: tables.as_markdown(encryption.flavour(document, "gso")),
    },
    "backends": {"backends": lambda document: backends.as_page(evaluate(document))},
    "profile": {"profile": lambda document: tables.as_markdown(tables.profile(document))},
    "micro": {
        "lookups": lambda document: tables.as_markdown(tables.lookups(document)),
        "micro": lambda document: tables.as_markdown(tables.micro(document)),
    },
    "memory": {"memory": lambda document: tables.as_markdown(tables.memory(document))},
    "recovery": {
        "faults": lambda document: tables.as_markdown(recovery.faults(document)),
        "moves": lambda document: tables.as_markdown(recovery.moves(document)),
    },
}
"""The blocks a raw file can fill, by the `kind` it says it is."""


def with_raw(page: str, path: Path) -> str:
    """Returns the page with the marks of all blocks that a raw file can fill set to it.

    Raises:
        UsageError: the page has no such block, or the file is outside the tree.
    """
    kind = raw.read(path)["kind"]
    place = path.resolve()
    if not place.is_relative_to(ROOT):
        msg = f"{path}: the page can name files below {ROOT} only; put it into bench/results"
        raise UsageError(msg)
    name_of_file = place.relative_to(ROOT).as_posix()

    def mark(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS.get(kind, {}):
            return block[0]
        return block[0].replace(f" of {block['raw']} -->", f" of {name_of_file} -->", 1)

    marked = _BLOCK.sub(mark, page)
    if f" of {name_of_file} -->" not in marked:
        msg = f"{path}: its kind is {kind!r}, and {PAGE.name} has no block for that"
        raise UsageError(msg)
    return marked


def filled(page: str) -> str:
    """Returns the page with every block made anew from the raw file it names."""

    def fill(block: re.Match[str]) -> str:
        document = raw.read(ROOT / block["raw"])
        text = BLOCKS[document["kind"]][block["name"]](document)
        name = block["name"]
        return f"<!-- begin: {name} of {block['raw']} -->\n{text}\n<!-- end: {name} -->"

    return _BLOCK.sub(fill, page)


def plots(page: str) -> dict[Path, str]:
    """Returns the text of every plot by its place, from the raw file of the table of aims."""
    for block in _BLOCK.finditer(page):
        if block["name"] == "aims":
            made = charts(Evaluation(raw.read(ROOT / block["raw"])))
            return {PLOTS / name: text for name, text in made.items()}
    return {}
