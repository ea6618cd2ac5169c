"""Which modules of a native crate use which, and which of them use each other in a circle."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_COMMENT = re.compile(r"//.*")
_TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:pub )?mod (\w+)")
_INLINE_TESTS = re.compile(r"#\[cfg\(test\)\]\s*mod \w+ \{.*", re.DOTALL)
_OF_CRATE = re.compile(r"\bcrate::(?:(\w+)|\{)")


def uses(src: Path) -> dict[str, set[str]]:
    """Returns for each module right under the crate's root which others its code names.

    A module in a folder belongs to the one the folder is named after. What is compiled for tests
    alone is left out, and so are comments.
    """
    root = next(path for path in (src / "lib.rs", src / "main.rs") if path.exists())
    of_tests = set(_TEST_MODULE.findall(root.read_text())) | {"tests"}
    used: dict[str, set[str]] = {}
    for path in sorted(src.rglob("*.rs")):
        parts = path.relative_to(src).with_suffix("").parts
        if path != root and of_tests.isdisjoint(parts):
            used.setdefault(parts[0], set()).update(_names(path.read_text()))
    return {name: (found & used.keys()) - {name} for name, found in used.items()}


def _names(source: str) -> Iterator[str]:
    """Yields the first name behind each `crate::`, and of `crate::{...}` each first name inside."""
    code = _INLINE_TESTS.sub("", _COMMENT.sub("", source))
    for match in _OF_CRATE.finditer(code):
        yield from [match[1]] if match[1] else _group(code[match.end() :])


def _group(code: str) -> Iterator[str]:
    depth = 0
    for token in re.finditer(r"[{}]|(?<![\w:])(\w+)", code):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth < 0:
                return
        elif depth == 0:
            yield token[0]


def circles(uses: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the strongly connected components of more than one node, each sorted.

    Source: R. Tarjan, Depth-first search and linear graph algorithms (1972).
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(uses[node]):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            place = stack.index(node)
            component = sorted(stack[place:])
            del stack[place:]
            if len(component) > 1:
                found.append(component)

    for node in sorted(uses):
        if node not in order:
            visit(node)
    return sorted(found)
