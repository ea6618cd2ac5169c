"""What ESP costs, judged by gates and aims: each ratio taken within a round, then its median. Pure.

Every round has processes of its own. An overlay that has several turns in a round counts by the
mean of them.

The AEAD's own cost is that of sealing and opening a packet of ESP's MTU, for as many packets as a
gigabyte has: of the best of its rounds in each process, since what else the machine does can only
add to it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.report import tables
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

ESP: Final = "tunneld ESP"
CHACHA20: Final = "tunneld ESP chacha20-poly1305"
WIREGUARD: Final = "wireguard-go"
AEAD: Final = "aead"
"""The figure of the AEAD alone, and what the names of its cases begin with."""

_PACKET_BYTES: Final = 1_438
_RATE, _CPU = TCP_1[:2]
_FLAVOURS: Final = ("wire", "gso")

Bounds = Mapping[str, float]
"""By the flavour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure beside what it must be and what it should be."""

    name: str
    flavour: str
    seen: Spread
    unit: str = ""
    gate: float | None = None
    aim: float | None = None
    is_at_most: bool = False
    decimals: int = 2

    def meets(self, bound: float | None) -> bool | None:
        """Returns whether the median is within a bound; None: there is none."""
        if bound is None:
            return None
        return self.seen.median <= bound if self.is_at_most else self.seen.median >= bound


def rows(document: dict[str, Any]) -> list[Row]:
    """Returns a row for each figure and flavour that was measured."""
    seen = _tunnels(document)
    has_wide_aes = {"vaes", "vpclmulqdq"} <= set(document["machine"]["cpu_flags"])
    plain_gates = {"wire": 0.85, "gso": 0.60} if has_wide_aes else {"wire": 0.75, "gso": 0.52}
    cases = _aead(document)
    own = statistics.median(cases[_case(document)])
    found = [
        *_rows(
            "tunnel CPU, ESP - plain",
            _compared(seen, _CPU, ESP, TUNNELD, lambda ours, theirs: ours - theirs),
            gates=dict.fromkeys(_FLAVOURS, 1.5 * own + 0.15),
            aims=dict.fromkeys(_FLAVOURS, 1.15 * own + 0.1),
            unit="s/GB",
            is_at_most=True,
        ),
        *_rows(
            "TCP, 1 stream: ESP / plain",
            _ratios(seen, _RATE, ESP, TUNNELD),
            gates=plain_gates,
            aims={"wire": 0.93, "gso": 0.72},
        ),
        *_rows(
            f"TCP, 1 stream: ESP / {WIREGUARD}",
            _ratios(seen, _RATE, ESP, WIREGUARD),
            gates={"wire": 5.0, "gso": 2.5},
            aims={"wire": 7.0, "gso": 3.5},
        ),
        *_rows(
            "TCP, 1 stream: ChaCha20 / AES-256",
            _ratios(seen, _RATE, CHACHA20, ESP),
            gates={"wire": 0.7, "gso": 0.6},
        ),
        *_rows(
            "64-byte UDP flood: ESP / plain",
            _ratios(seen, FLOOD[0], ESP, TUNNELD),
            gates=dict.fromkeys(_FLAVOURS, 0.8),
            aims=dict.fromkeys(_FLAVOURS, 0.9),
        ),
        *_rows(
            "idle round trip: ESP - plain",
            _compared(seen, ROUND_TRIP[0], ESP, TUNNELD, lambda ours, theirs: ours - theirs),
            gates=dict.fromkeys(_FLAVOURS, 10.0),
            aims=dict.fromkeys(_FLAVOURS, 3.0),
            unit="us",
            is_at_most=True,
            decimals=1,
        ),
        *_rows(
            "TCP, 4 streams: ESP / plain",
            _ratios(seen, TCP_4[0], ESP, TUNNELD),
            gates={"wire": 0.80, "gso": 0.55},
        ),
    ]
    aead = (
        Row(name=f"{name} (seal + open)", flavour="–", seen=cost, unit="s/GB", decimals=3)
        for name, costs in cases.items()
        if (cost := spread(costs)) is not None
    )
    return [*found, *aead]


def table(document: dict[str, Any]) -> Rows:
    """Returns the table of gates and aims; the first row is the head."""
    body = [
        [
            row.name,
            row.flavour,
            f"{shown(row.seen, row.decimals)} {row.unit}".strip(),
            _judged(row, row.gate),
            _judged(row, row.aim),
        ]
        for row in rows(document)
    ]
    return [["figure", "underlay", "seen", "gate", "aim"], *body]


def flavour(document: dict[str, Any], name: str) -> Rows:
    """Returns all figures of one underlay, an overlay a column; the first row is the head."""
    return tables.flavour(_tunnels(document), name)


def as_page(document: dict[str, Any]) -> str:
    """Returns the table of gates and aims as Markdown."""
    return as_markdown(table(document))


def flavour_page(document: dict[str, Any], name: str) -> str:
    """Returns all figures of one underlay as Markdown."""
    return as_markdown(flavour(document, name))


def as_text(document: dict[str, Any]) -> str:
    """Returns everything for a terminal."""
    seen = _tunnels(document)
    parts = []
    for name in seen.flavours:
        parts += [f"underlay {name}", aligned(flavour(document, name)), ""]
    loud, share = seen.loud()
    noise = f"other programs: median {share:.1%} of all cores, loud in {loud} samples"
    judged = aligned(table(document)).replace("**", "")
    return "\n".join([*parts, f"gates and aims, AES by {_case(document)}", judged, noise])


def _tunnels(document: dict[str, Any]) -> Evaluation:
    """Returns what was measured through a tunnel."""
    samples = [sample for sample in document["samples"] if sample["figure"] != AEAD]
    return Evaluation(document | {"samples": samples})


def _case(document: dict[str, Any]) -> str:
    """Returns the name of the case that is the AEAD by which ESP sealed."""
    (used, *_) = (
        about["overlays"][ESP]["encryption"]
        for about in document["flavours"].values()
        if ESP in about["overlays"]
    )
    return f"{AEAD} {used['provider']} {used['cipher']} {_PACKET_BYTES}"


def _aead(document: dict[str, Any]) -> dict[str, list[float]]:
    """Returns what each AEAD costs alone, in s/GB, by process."""
    costs: dict[str, list[float]] = {}
    for sample in document["samples"]:
        if sample["figure"] == AEAD:
            # Nanoseconds for each of 10^9 bytes are seconds for all of them.
            cost = min(sample["ns_per_packet"]) / _PACKET_BYTES
            costs.setdefault(sample["overlay"], []).append(cost)
    return costs


def _compared(
    seen: Evaluation,
    metric: Metric,
    ours: str,
    theirs: str,
    compare: Callable[[float, float], float],
) -> Iterator[tuple[str, list[float]]]:
    """Yields the flavours, and how the two compare in each round that has both."""
    for name in _FLAVOURS:
        one, other = (seen.by_round(name, metric, overlay) for overlay in (ours, theirs))
        yield (
            name,
            [
                compare(statistics.mean(one[number]), statistics.mean(other[number]))
                for number in one
                if number in other and statistics.mean(other[number]) > 0
            ],
        )


def _ratios(
    seen: Evaluation, metric: Metric, ours: str, theirs: str
) -> Iterator[tuple[str, list[float]]]:
    return _compared(seen, metric, ours, theirs, lambda one, other: one / other)


def _rows(
    name: str,
    compared: Iterator[tuple[str, list[float]]],
    *,
    gates: Bounds,
    aims: Bounds | None = None,
    unit: str = "",
    is_at_most: bool = False,
    decimals: int = 2,
) -> Iterator[Row]:
    for flavour_name, values in compared:
        seen = spread(values)
        if seen is not None:
            yield Row(
                name=name,
                flavour=flavour_name,
                seen=seen,
                unit=unit,
                gate=gates[flavour_name],
                aim=aims[flavour_name] if aims else None,
                is_at_most=is_at_most,
                decimals=decimals,
            )


def _judged(row: Row, bound: float | None) -> str:
    if bound is None:
        return "–"
    text = f"{'≤' if row.is_at_most else '≥'} {bound:.{row.decimals}f}"
    return f"{text}: yes" if row.meets(bound) else f"{text}: **no**"
