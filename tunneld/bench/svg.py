"""Plots as SVG text that an HTML page holds: no plotting library, no script. Pure.

Colours are classes, which the page's style sheet fills for light and dark. A plot is narrow enough
to be read on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 440
COLOURS: Final = 8
"""Classes c0 to c7; after these they come again, dashed or pale."""
_LEFT, _RIGHT, _BAR, _STEP, _GAP = 142, 62, 12, 16, 10
_HEIGHT, _FOOT, _TOP, _SIDE = 270, 44, 24, 54
_MOST_LABEL: Final = 24


def drawn(plot: Mapping[str, Any], subjects: Sequence[str]) -> str:
    """Returns a plot's SVG; `subjects` are in the order of their colours."""
    return _bars(plot, subjects) if plot["kind"] == "bars" else _lines(plot, subjects)


def shown(value: float) -> str:
    """Returns a number as the JSON has it."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else str(value)


def colour(subject: str, subjects: Sequence[str]) -> str:
    """Returns the classes of a subject."""
    place = subjects.index(subject)
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def _bars(plot: Mapping[str, Any], subjects: Sequence[str]) -> str:
    top = plot["ticks"][-1] or 1
    scale = (WIDTH - _LEFT - _RIGHT) / top
    lines: list[str] = []
    y = 8.0
    for group in plot["groups"]:
        if group["label"]:
            lines.append(_text(0, y + 10, group["label"], of="group"))
            y += 18
        for bar in group["bars"]:
            lines += _bar(y, scale, bar, subjects)
            y += _STEP
        y += _GAP
    grid = [_line(_LEFT + at * scale, 4, _LEFT + at * scale, y, "grid") for at in plot["ticks"]]
    marks = [
        _text(_LEFT + at * scale, y + 12, shown(at), anchor="middle", of="tick")
        for at in plot["ticks"]
    ]
    return _svg(plot["title"], y + 18, [*grid, *lines, *marks])


def _bar(y: float, scale: float, bar: Mapping[str, Any], subjects: Sequence[str]) -> list[str]:
    middle = y + _BAR / 2
    low, high, end = (_LEFT + bar[name] * scale for name in ("low", "high", "median"))
    label = bar["subject"]
    if len(label) > _MOST_LABEL:
        label = label[: _MOST_LABEL - 1] + "…"
    return [
        _text(_LEFT - 6, middle + 4, label, anchor="end"),
        f'<rect class="{colour(bar["subject"], subjects)}" x="{_LEFT}" y="{y:.1f}" '
        f'width="{max(0.0, end - _LEFT):.1f}" height="{_BAR}"/>',
        f'<path class="quartiles" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 3}v6'
        f'M{high:.1f} {middle - 3}v6"/>',
        _text(max(high, end) + 6, middle + 4, shown(bar["median"]), of="value"),
    ]


def _lines(plot: Mapping[str, Any], subjects: Sequence[str]) -> str:
    x_of = _scale(plot["x"], _SIDE, WIDTH - 14)
    y_of = _scale(plot["y"], _HEIGHT - _FOOT, _TOP)
    lines: list[str] = []
    bottom = _HEIGHT - _FOOT
    for tick in plot["x"]["ticks"]:
        x = x_of(tick["at"])
        lines.append(_line(x, _TOP, x, bottom, "grid"))
        lines.append(_text(x, bottom + 14, tick["label"], anchor="middle", of="tick"))
    for tick in plot["y"]["ticks"]:
        y = y_of(tick["at"])
        lines.append(_line(_SIDE, y, WIDTH - 14, y, "grid"))
        lines.append(_text(_SIDE - 6, y + 4, tick["label"], anchor="end", of="tick"))
    for series in plot["series"]:
        kind = colour(series["subject"], subjects)
        places = [(x_of(x), y_of(y)) for x, y in series["points"]]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        lines.append(f'<path class="line {kind}" d="M{path}"/>')
        if len(places) <= 12:
            lines += (
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
            )
    middle = (_SIDE + WIDTH - 14) / 2
    below = f"{plot['x']['title']} ({plot['x']['unit']})"
    lines.append(_text(middle, _HEIGHT - 10, below, anchor="middle", of="tick"))
    lines.append(_text(0, 9, f"{plot['y']['title']} ({plot['y']['unit']})", of="tick"))
    return _svg(plot["title"], _HEIGHT, lines)


def _scale(axis: Mapping[str, Any], begin: float, end: float) -> Any:  # noqa: ANN401 - a function
    at = [tick["at"] for tick in axis["ticks"]]
    by = math.log10 if axis["scale"] == "log" else float
    low, high = by(at[0]), by(at[-1])
    span = (high - low) or 1.0

    def place(value: float) -> float:
        least = at[0] if axis["scale"] == "log" else value
        return begin + (by(max(value, least)) - low) / span * (end - begin)

    return place


def _svg(title: str, height: float, lines: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
    return "\n".join([head, *lines, "</svg>"])


def _text(x: float, y: float, text: str, *, anchor: str = "start", of: str = "label") -> str:
    place = f'class="{of}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
