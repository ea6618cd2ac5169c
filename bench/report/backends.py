"""What vxlan and IPv6 cost beside raw IPv4, all of them tunneld's, as tables. Pure.

Every round holds raw IPv4 before and after each of the others; a ratio is taken to the mean of a
round's raw values, and only then the median over the rounds.
"""

from __future__ import annotations

import statistics
from typing import Final

from bench.report.evaluation import (
    FLOOD,
    ROUND_TRIP,
    TCP_1,
    TCP_4,
    TUNNELD,
    Evaluation,
    Metric,
    Spread,
    spread,
)
from bench.report.tables import Rows, aligned, as_markdown, shown

SLOWEST: Final = 0.90
"""Within ten per cent."""

METRICS: Final = (*TCP_1[:2], *TCP_4[:2], *FLOOD, ROUND_TRIP[0])
_JUDGED: Final = (TCP_1[0], TCP_4[0], FLOOD[0])


def ratio(seen: Evaluation, flavour: str, metric: Metric, overlay: str) -> Spread | None:
    """Returns an overlay's value by that of raw IPv4, round by round."""
    ours = seen.by_round(flavour, metric, overlay)
    raw = seen.by_round(flavour, metric, TUNNELD)
    return spread(
        statistics.mean(ours[number]) / statistics.mean(raw[number])
        for number in ours
        if number in raw and statistics.mean(raw[number]) > 0
    )


def rows(seen: Evaluation) -> Rows:
    """Returns the table; the first row is the head."""
    head = ["figure", "underlay", "hosts joined by", "seen", "by raw IPv4"]
    body = []
    for flavour in seen.flavours:
        for metric in METRICS:
            if seen.spread(flavour, metric, TUNNELD) is None:
                continue
            for name in seen.overlays:
                by_raw = None if name == TUNNELD else ratio(seen, flavour, metric, name)
                mark = "**" if _is_missed(name, metric, by_raw) else ""
                value = shown(seen.spread(flavour, metric, name), metric.decimals)
                by_raw_shown = f"{mark}{shown(by_raw, 2)}{mark}"
                body.append([f"{metric.name} ({metric.unit})", flavour, name, value, by_raw_shown])
    return [head, *body]


def as_page(seen: Evaluation) -> str:
    """Returns the table as Markdown."""
    return as_markdown(rows(seen))


def as_text(seen: Evaluation) -> str:
    """Returns the table for a terminal."""
    return aligned(rows(seen)).replace("**", "")


def _is_missed(name: str, metric: Metric, by_raw: Spread | None) -> bool:
    is_judged = name.startswith(TUNNELD) and metric in _JUDGED
    return is_judged and by_raw is not None and by_raw.median < SLOWEST
