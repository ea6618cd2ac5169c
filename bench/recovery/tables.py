"""Tables of what faults and migration cost, from the samples of a raw file. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

Rows = list[list[str]]
Samples = dict[str, list[dict[str, Any]]]


def faults(document: dict[str, Any]) -> Rows:
    """Returns a row for each thing that happened to a host; the first row is the head."""
    rows = [
        [
            _with_code(event),
            _spread(found, "lost", 0),
            _spread(found, "gap_s", 2),
            _spread(found, "restored_s", 2),
        ]
        for event, found in _by_event(document).items()
        if "restored_s" in found[0]
    ]
    return [["event", "packets lost", "longest silence (s)", "all is back (s)"], *rows]


def moves(document: dict[str, Any]) -> Rows:
    """Returns a row for each kind of move, and what it cost others; the first row is the head."""
    rows = [
        [event, str(len(found)), _spread(found, "lost", 0), _spread(found, "gap_s", 2)]
        for event, found in _by_event(document).items()
        if "move" in found[0]
    ]
    return [["packets of", "flows", "packets lost", "longest silence (s)"], *rows]


def _by_event(document: dict[str, Any]) -> Samples:
    found: Samples = defaultdict(list)
    for sample in document["samples"]:
        found[sample["event"]].append(sample)
    return found


def _with_code(event: str) -> str:
    """Returns the text with the command in front of the comma set as code."""
    command, comma, rest = event.partition(",")
    return f"`{command}`{comma}{rest}"


def _spread(samples: list[dict[str, Any]], name: str, decimals: int) -> str:
    """Returns `median (at most ...)`."""
    values = [sample[name] for sample in samples]
    return f"{statistics.median(values):.{decimals}f} (at most {max(values):.{decimals}f})"
