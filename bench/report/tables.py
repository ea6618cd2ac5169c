"""Tables of an evaluation, as Markdown and for the terminal. Pure."""

from __future__ import annotations

import statistics
from typing import Any

from bench.report.evaluation import METRICS, Aim, Evaluation, Metric, Spread, spread

Rows = list[list[str]]

_OWN = "code of tunneld's own"


def shown(seen: Spread | None, decimals: int) -> str:
    """Returns `median (quartile–quartile)`; a dash when there is nothing."""
    if seen is None:
        return "–"
    median, low, high = (f"{value:.{decimals}f}" for value in (seen.median, seen.low, seen.high))
    return median if low == high else f"{median} ({low}–{high})"


def aims(evaluation: Evaluation) -> Rows:
    """Returns the table of aims; the first row is the head."""
    body = [
        [
            aim.name,
            aim.flavour,
            _bound(aim),
            f"{shown(aim.seen, aim.decimals)} {aim.unit}".strip(),
            "yes" if aim.is_met else "**no**",
        ]
        for aim in evaluation.aims()
    ]
    return [["figure", "underlay", "aim", "seen", "met"], *body]


def flavour(evaluation: Evaluation, name: str) -> Rows:
    """Returns all figures of one underlay, an overlay a column; the first row is the head."""
    rows = [["figure", *evaluation.overlays]]
    for metric in METRICS:
        seen = [evaluation.spread(name, metric, overlay) for overlay in evaluation.overlays]
        if any(seen):
            rows.append([_named(metric), *(shown(one, metric.decimals) for one in seen)])
    return rows


def memory(document: dict[str, Any]) -> Rows:
    """Returns a daemon's memory by its peers; the first row is the head."""
    rows = [
        [
            f"{one['peers']:,}",
            f"{one['rss_mb']:.0f}",
            f"{one['peak_mb']:.0f}",
            f"{one['ready_s']:.1f}",
        ]
        for one in document["samples"]
    ]
    return [["peers", "resident (MB)", "at most (MB)", "ready after (s)"], *rows]


def profile(document: dict[str, Any]) -> Rows:
    """Returns where the daemons' time went, a figure and underlay a row; the first is the head."""
    samples = document["samples"]
    parts = list(samples[0]["parts"])
    rows = []
    for one in samples:
        shares = one["parts"] | {_OWN: _own(one)}
        figure = one.get("figure", "tcp1")
        shown = (f"{share:.0f} %" for share in shares.values())
        rows.append([figure, one["flavour"], *shown, max(parts, key=shares.__getitem__)])
    return [["figure", "underlay", *parts, _OWN, "most of it"], *rows]


def micro(document: dict[str, Any]) -> Rows:
    """Returns what the native core costs per packet, a case a row; the first row is the head."""
    rows = []
    for one in document["samples"]:
        instructions, rounds = one["instructions_per_packet"], one["ns_per_packet"]
        counted = "–" if instructions is None else f"{instructions:,.0f}"
        rows.append([one["name"], f"{min(rounds):,.1f}", shown(spread(rounds), 1), counted])
    return [["case", "best ns", "median ns", "instructions"], *rows]


def lookups(document: dict[str, Any]) -> Rows:
    """Returns the table of aims of the look-up; the first row is the head."""
    rounds = {one["name"]: one["ns_per_packet"] for one in document["samples"]}
    many, few = rounds["lookup zipf 1000000"], rounds["lookup zipf 1000"]
    ratios = [of_many / of_few for of_many, of_few in zip(many, few, strict=True)]
    uniform = rounds["lookup uniform 1000000"]
    return [
        ["figure", "aim", "median of all rounds", "best", "met"],
        _aim("Zipf's law: 1,000,000 prefixes / 1,000", ratios, 2, min(many) / min(few)),
        _aim("all alike: 1,000,000 prefixes (ns)", uniform, 20, min(uniform)),
    ]


def _aim(name: str, rounds: list[float], bound: float, best: float) -> list[str]:
    met = "yes" if statistics.median(rounds) <= bound else "**no**"
    return [name, f"≤ {bound:g}", shown(spread(rounds), 1), f"{best:.1f}", met]


def _own(sample: dict[str, Any]) -> float:
    objects: dict[str, float] = sample["objects"]
    return sum(share for name, share in objects.items() if name.startswith("_native"))


def machine(evaluation: Evaluation) -> Rows:
    """Returns what it ran on; the first row is the head."""
    about = evaluation.document["machine"]
    loud, share = evaluation.loud()
    load = f"{about['load_before']:.1f} at the start"
    noise = f"median {share:.1%} of all cores, over 15 % in {loud} of {len(evaluation.samples)}"
    return [
        ["what", "value"],
        ["begun", evaluation.document["began"]],
        ["lengths", _lengths(evaluation)],
        ["commit", str(about["commit"])],
        ["processor", f"{about['cpus']} x {about['cpu']}"],
        ["kernel", f"Linux {about['kernel']}"],
        ["flanneld, iperf3", f"{about['flanneld']}, {about['iperf3']}"],
        ["longest frame seen", _frames(evaluation)],
        ["load, priority", f"{load}, nice {about['nice']}"],
        ["CPU taken by other programs", f"{noise} measurements"],
    ]


def as_markdown(rows: Rows) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_text(evaluation: Evaluation) -> str:
    """Returns everything for a terminal."""
    parts = []
    for name in evaluation.flavours:
        parts += [f"underlay {name}", aligned(flavour(evaluation, name)), ""]
    return "\n".join([*parts, "aims", aligned(aims(evaluation)).replace("**", "")])


def _named(metric: Metric) -> str:
    return f"{metric.name} ({metric.unit})"


def _bound(aim: Aim) -> str:
    sign = "≤" if aim.is_at_most else "≥"
    return f"{sign} {aim.bound:.{aim.decimals}f}"


def _lengths(evaluation: Evaluation) -> str:
    plan = evaluation.document["plan"]
    return (
        f"{plan['rounds']} rounds; TCP {plan['stream_s']:g} s, flood {plan['flood_s']:g} s, "
        f"{plan['round_trips']} round trips"
    )


def _frames(evaluation: Evaluation) -> str:
    return "; ".join(
        f"{name}: "
        + ", ".join(
            f"{overlay} {one['frames']['longest_bytes']}"
            for overlay, one in about["overlays"].items()
        )
        for name, about in evaluation.document["flavours"].items()
    )


def aligned(rows: Rows) -> str:
    """Returns a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
