"""A document, or what changed between two, as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunneld.bench.compare import Change
from tunneld.bench.svg import shown


def as_text(document: Mapping[str, Any]) -> str:
    """Returns the results as a table, with what to think of them."""
    parts: list[str] = []
    by_title: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in document["results"]:
        by_title.setdefault((result["title"], result["unit"]), []).append(result)
    base = document.get("base")
    for (title, unit), found in by_title.items():
        head = [f"{title} ({unit})", "median", "quartiles", f"to {base}" if base else "", "rounds"]
        parts += [_aligned([head, *(_row(result) for result in found)]), ""]
    noise = document["noise"]
    if noise["marked"]:
        parts.append(
            f"{noise['marked']} of {noise['samples']} samples are marked: "
            f"{'; '.join(noise['why'])}. Medians are of the others, where a case has any (*: none)."
        )
    parts += document["notes"]
    if not document["complete"]:
        parts.append("It was ended early: this is what was measured until then.")
    return "\n".join(parts).rstrip("\n")


def changes_as_text(changes: Sequence[Change], differences: Sequence[str]) -> str:
    """Returns what changed beyond noise first, then what cannot be compared, then the rest."""
    parts = [f"differs: {line}" for line in differences]
    changed = [c for c in changes if c.verdict in ("more", "less")]
    unclear = [c for c in changes if c.verdict == "cannot be compared"]
    alike = len(changes) - len(changed) - len(unclear)
    if changed:
        rows = [["changed beyond noise", "before", "after", "", ""]]
        rows += [
            [f"{c.title}: {c.case}", _span(c.before), _span(c.after), c.unit, f"{c.percent:+.1f} %"]
            for c in changed
        ]
        parts.append(_aligned(rows))
    if unclear:
        rows = [["cannot be compared", "before", "after", "", ""]]
        rows += [
            [f"{c.title}: {c.case}", _span(c.before), _span(c.after), c.unit, c.why]
            for c in unclear
        ]
        parts.append(_aligned(rows))
    parts.append(f"{alike} of {len(changes)} results without a change beyond noise")
    return "\n".join(parts)


def _span(seen: Any) -> str:  # noqa: ANN401 - a spread
    return f"{shown(seen.median)} ({shown(seen.low)} to {shown(seen.high)})"


def _row(result: Mapping[str, Any]) -> list[str]:
    case = ", ".join(
        value if name in ("subject", "direction", "operation") else f"{name} {value}"
        for name, value in result["case"].items()
    )
    ratio = result.get("ratio")
    star = "" if result["undisturbed"] else " *"
    return [
        case,
        shown(result["median"]),
        f"{shown(result['low'])} to {shown(result['high'])}",
        shown(ratio["median"]) if ratio else "",
        f"{result['undisturbed']}/{result['rounds']}{star}",
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
