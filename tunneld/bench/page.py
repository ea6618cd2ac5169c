"""One HTML page of a document: it needs no network and no script, prints, reads in dark and light.

Pure. Every number it shows is in the JSON next to it, as it stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from tunneld.bench.svg import colour, drawn, shown

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b2128; --soft: #5a6672; --rule: #d8dee5; --paper: #fff;
  --c0: #6b7785; --c1: #b8860b; --c2: #2563c9; --c3: #7c3aed; --c4: #0f8a5f; --c5: #c2410c;
  --c6: #be185d; --c7: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa7b4; --rule: #333c46;
  --paper: #14181d; --c0: #93a0ae; --c1: #e0b341; --c2: #6fa3ff; --c3: #b794ff; --c4: #41c795;
  --c5: #ff9257; --c6: #ff7db3; --c7: #4cc3dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 20px 16px 48px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 32px 0 8px; }
p { margin: 6px 0; max-width: 75ch; } .soft, figcaption small { color: var(--soft); }
.warning { border-left: 4px solid var(--c5); padding: 6px 12px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 20px 28px; }
figure { margin: 0; break-inside: avoid; } figcaption { font-weight: 600; margin-bottom: 6px; }
figcaption small { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; max-width: 560px; fill: var(--ink);
  font: 11px system-ui, sans-serif; }
svg .tick { fill: var(--soft); } svg .group { font-weight: 600; }
svg .grid { stroke: var(--rule); fill: none; } svg .quartiles { stroke: var(--ink); fill: none; }
svg .line { fill: none; stroke-width: 2; } svg .again { stroke-dasharray: 5 4; opacity: .75; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; list-style: none; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 6px; }
.legend i.again { opacity: .6; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: 14px; width: 100%; }
th, td { text-align: right; padding: 4px 10px; border-bottom: 1px solid var(--rule);
  white-space: nowrap; } th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
tr.disturbed td { color: var(--soft); } dl { display: grid; grid-template-columns: auto 1fr;
  gap: 2px 16px; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 600px) { td:first-child { white-space: normal; min-width: 130px; }
  th, td { padding: 4px 6px; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --rule: #bbb;
  --paper: #fff; --c0: #6b7785; --c1: #b8860b; --c2: #2563c9; --c3: #7c3aed; --c4: #0f8a5f;
  --c5: #c2410c; --c6: #be185d; --c7: #0e7490; }
  body { max-width: none; padding: 0; font-size: 11px; } .table { overflow: visible; }
  svg rect, .legend i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
_TITLES: Final = {
    "crypto": "AEADs alone",
    "local": "Encapsulations on one machine",
    "hosts": "Between two hosts",
}


def page(document: Mapping[str, Any], raw_name: str) -> str:
    """Returns the page; `raw_name` is the file next to it that holds the document."""
    title = f"tunneld bench: {_TITLES.get(document['kind'], document['kind'])}"
    subjects = subjects_of(document)
    colours = "".join(
        f"svg .c{n} {{ fill: var(--c{n}); }} svg .line.c{n} {{ fill: none; stroke: var(--c{n}); }} "
        f".legend .c{n} {{ background: var(--c{n}); }}\n"
        for n in range(8)
    )
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}{colours}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(str(document.get("began", "")))}. Raw figures: '
        f'<a href="{escape(raw_name)}">{escape(raw_name)}</a></p>',
        *_warnings(document),
        *_legend(subjects),
        '<div class="plots">',
        *(_figure(plot, subjects, raw_name) for plot in document["plots"]),
        "</div>",
        *_table(document),
        *_about(document),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def subjects_of(document: Mapping[str, Any]) -> list[str]:
    """Returns what is compared, in the order it was measured."""
    found = dict.fromkeys(result["case"].get("subject", "") for result in document["results"])
    return list(found)


def _warnings(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["complete"]:
        yield '<p class="warning">It was ended early: this is what was measured until then.</p>'
    noise = document["noise"]
    if noise["marked"]:
        why = "; ".join(noise["why"])
        yield (
            f'<p class="warning">{noise["marked"]} of {noise["samples"]} samples are marked: '
            f"{escape(why)}. Medians are of the others, where a case has any.</p>"
        )
    for note in document["notes"]:
        yield f'<p class="warning">{escape(note)}</p>'


def _legend(subjects: Sequence[str]) -> list[str]:
    if len(subjects) < 2:
        return []
    items = [
        f'<li><i class="{colour(subject, subjects)}"></i>{escape(subject)}</li>'
        for subject in subjects
    ]
    return ['<ul class="legend">', *items, "</ul>"]


def _figure(plot: Mapping[str, Any], subjects: Sequence[str], raw_name: str) -> str:
    source = f"samples of figure “{plot['figure']}” in {raw_name}"
    return (
        f"<figure><figcaption>{escape(plot['title'])} ({escape(plot['unit'])})"
        if plot["kind"] == "bars"
        else f"<figure><figcaption>{escape(plot['title'])}"
    ) + (f"<small>{escape(source)}</small></figcaption>\n{drawn(plot, subjects)}\n</figure>")


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    base = document.get("base")
    by_title: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in document["results"]:
        by_title.setdefault((result["title"], result["unit"]), []).append(result)
    for (title, unit), found in by_title.items():
        yield f"<h2>{escape(title)} ({escape(unit)})</h2>"
        ratio = f"<th>ratio to {escape(base)}</th>" if base else ""
        yield (
            '<div class="table"><table><thead><tr><th>case</th><th>median</th><th>quartiles</th>'
            f"{ratio}<th>undisturbed rounds</th></tr></thead><tbody>"
        )
        yield from (_row(result, has_base=bool(base)) for result in found)
        yield "</tbody></table></div>"


def _row(result: Mapping[str, Any], *, has_base: bool) -> str:
    case = ", ".join(
        value if name in ("subject", "direction", "operation") else f"{name} {value}"
        for name, value in result["case"].items()
    )
    cells = [
        escape(case),
        shown(result["median"]),
        f"{shown(result['low'])} to {shown(result['high'])}",
    ]
    if has_base:
        ratio = result.get("ratio")
        cells.append(
            f"{shown(ratio['median'])} ({shown(ratio['low'])} to {shown(ratio['high'])})"
            if ratio
            else ""
        )
    cells.append(f"{result['undisturbed']} of {result['rounds']}")
    kind = ' class="disturbed"' if result["undisturbed"] == 0 else ""
    return f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _about(document: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>What it was measured on</h2>\n<dl>"
    for name, value in document.get("machine", {}).items():
        if value is not None and not isinstance(value, dict):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>"
    yield "</dl>"
    yield (
        "<p>A median is over rounds in which every case had its turn, a ratio is taken within a "
        "round. The method and what each figure means: docs/bench.md.</p>"
    )
