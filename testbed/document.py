"""The commands of a document, so that a test can do what its reader would.

A command stands in a fenced `console` block behind a prompt, `# ` or `$ `. It goes on after a
backslash, and to the end of its here-document; every other line of the block is what it prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"#+ +(?P<text>.+)")
_HERE = re.compile(r"<<-?\s*'?(?P<end>\w+)'?")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a document."""

    heading: str
    """The nearest heading above it."""
    text: str


def commands(document: Path) -> list[Command]:
    """Returns all commands of a document, from top to bottom."""
    found = []
    heading, fence = "", ""
    lines = iter(document.read_text().splitlines())
    for line in lines:
        if fence:
            if line.strip() == "```":
                fence = ""
            elif fence == "```console" and line.startswith(("# ", "$ ")):
                found.append(Command(heading, _whole(line[2:], lines)))
        elif line.startswith("```"):
            fence = line.strip()
        elif match := _HEADING.fullmatch(line):
            heading = match["text"]
    return found


def scripts(document: Path, heading: str) -> list[str]:
    """Returns the `sh` blocks below a heading of a document, each as a whole."""
    found: list[list[str]] = []
    here, fence = "", ""
    for line in document.read_text().splitlines():
        if fence:
            if line.strip() == "```":
                fence = ""
            elif fence == "```sh" and here == heading:
                found[-1].append(line)
        elif line.startswith("```"):
            fence = line.strip()
            found.extend([[]] if fence == "```sh" and here == heading else [])
        elif match := _HEADING.fullmatch(line):
            here = match["text"]
    return ["".join(f"{line}\n" for line in lines) for lines in found]


def _whole(first: str, rest: Iterator[str]) -> str:
    """Returns a command with the lines that belong to it, taken from `rest`."""
    lines = [first]
    here = _HERE.search(first)
    while lines[-1] != here["end"] if here else lines[-1].endswith("\\"):
        lines.append(next(rest))
    return "\n".join(lines)
