"""Bars with quartiles as SVG, one file a quantity. Pure; plain text, no plotting library."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Final

from bench.report.evaluation import (
    FLANNEL,
    FLOOD,
    ROUND_TRIP,
    TCP_1,
    TCP_4,
    TUNNELD,
    VXLAN,
    Evaluation,
    Metric,
    Spread,
)

COLOURS: Final = {VXLAN: "#8a94a0", TUNNELD: "#2563c9", FLANNEL: "#d08a2e"}
_WIDTH, _LEFT, _RIGHT = 760, 230, 90
_BAR, _STEP, _GAP, _TOP = 14, 18, 12, 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some bars under one label."""

    label: str
    bars: list[tuple[str, Spread]]
    """The overlay, and its values."""


def charts(evaluation: Evaluation) -> dict[str, str]:
    """Returns the SVG text of every plot by its file name, as far as it was measured."""
    wanted = {
        "tcp.svg": ("TCP from container to container", "Gbit/s", [TCP_1[0], TCP_4[0]]),
        "cpu.svg": ("CPU of the tunnel's processes on both hosts", "s/GB", [TCP_1[1], TCP_4[1]]),
        "flood.svg": ("64-byte UDP flood, delivered", "1000/s", [FLOOD[0]]),
        "round-trip.svg": ("Median round trip on an idle tunnel", "us", [ROUND_TRIP[0]]),
    }
    made = {
        name: (title, unit, _groups(evaluation, metrics))
        for name, (title, unit, metrics) in wanted.items()
    }
    return {
        name: chart(title, unit, groups) for name, (title, unit, groups) in made.items() if groups
    }


def _groups(evaluation: Evaluation, metrics: list[Metric]) -> list[Group]:
    found = []
    for flavour in evaluation.flavours:
        for metric in metrics:
            seen = [(name, evaluation.spread(flavour, metric, name)) for name in COLOURS]
            bars = [(name, one) for name, one in seen if one is not None]
            if bars:
                label = metric.name.split(":")[0].removeprefix("idle ")
                found.append(Group(label=f"{flavour}: {label}", bars=bars))
    return found


def chart(title: str, unit: str, groups: list[Group]) -> str:
    """Returns one plot: bars to the median, lines from quartile to quartile."""
    top = max(one.high for group in groups for _, one in group.bars) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / top
    lines: list[str] = []
    y = _TOP
    for group in groups:
        middle = y + _STEP * len(group.bars) / 2
        lines.append(_text(_LEFT - 10, middle + 3, group.label, anchor="end"))
        for name, one in group.bars:
            lines += _bar(y, scale, COLOURS[name], one)
            y += _STEP
        y += _GAP
    shown = [name for name in COLOURS if any(name == bar for g in groups for bar, _ in g.bars)]
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>',
        _text(12, 22, f"{title} ({unit})", size=15),
        *_legend(shown),
    ]
    return "\n".join([*head, *lines, "</svg>"]) + "\n"


def _bar(y: int, scale: float, colour: str, seen: Spread) -> list[str]:
    middle = y + _BAR / 2
    low, high = _LEFT + seen.low * scale, _LEFT + seen.high * scale
    decimals = 2 if seen.median < 100 else 0
    return [
        f'<rect x="{_LEFT}" y="{y}" width="{seen.median * scale:.1f}" height="{_BAR}" '
        f'fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} '
        f'{middle - 4}v8" stroke="#111111" fill="none"/>',
        _text(high + 8, middle + 4, f"{seen.median:.{decimals}f}"),
    ]


def _legend(names: list[str]) -> list[str]:
    lines = []
    for place, name in enumerate(names):
        x = 12 + 130 * place
        lines.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{COLOURS[name]}"/>')
        lines.append(_text(x + 18, 44, name))
    return lines


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f'<text {place} fill="#111111">{escape(text)}</text>'
