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
    others = [name for name in seen.overlays if name != TUNNELD]
    head = ["figure", "underlay", TUNNELD]
    for name in others:
        head += [name, "ratio"]
    body = []
    for flavour in seen.flavours:
        for metric in METRICS:
            if seen.spread(flavour, metric, TUNNELD) is None:
                continue
            row = [f"{metric.name} ({metric.unit})", flavour]
            row.append(shown(seen.spread(flavour, metric, TUNNELD), metric.decimals))
            for name in others:
                by_raw = ratio(seen, flavour, metric, name)
                mark = "**" if _is_missed(metric, by_raw) else ""
                row.append(shown(seen.spread(flavour, metric, name), metric.decimals))
                row.append(f"{mark}{shown(by_raw, 2)}{mark}")
            body.append(row)
    return [head, *body]


def as_page(seen: Evaluation) -> str:
    """Returns the table as Markdown."""
    return as_markdown(rows(seen))


def as_text(seen: Evaluation) -> str:
    """Returns the table for a terminal."""
    return aligned(rows(seen)).replace("**", "")


def _is_missed(metric: Metric, by_raw: Spread | None) -> bool:
    return metric in _JUDGED and by_raw is not None and by_raw.median < SLOWEST
