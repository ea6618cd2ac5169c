"""What is plotted, as plain data with every number that a plot shows. Pure.

Bars: a group for each size or number of streams, a bar for each subject, from quartile to quartile
a line. Lines: loss against the rate, and the distribution of round trips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

_WHOSE: Final = "subject"
_GROUPS: Final = ("size", "streams")
"""Members of a case that make the groups of a plot; what is left tells plots from each other."""
_BARS: Final = (
    *("tcp-rate", "tcp-tunnel-cpu", "tcp-cpu", "tcp-near-cpu", "tcp-far-cpu"),
    *("udp-packets", "udp-rate", "udp-tunnel-cpu", "udp-cpu", "udp-near-cpu", "udp-far-cpu"),
    *("clean-rate", "idle-p50", "loaded-p50", "loaded-p99", "aead-rate", "aead-cycles"),
)

Plot = dict[str, Any]
_PlotOf = Callable[[str, str, Mapping[str, Mapping[str, Any]]], Plot | None]


def plots(results: Sequence[Mapping[str, Any]], samples: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Returns the plots of what was measured."""
    return [
        *_bars(results),
        *_lines(samples, "loss", _loss_plot),
        *_lines(samples, "idle", _latency_plot),
        *_lines(samples, "loaded", _latency_plot),
    ]


def ticks(top: float) -> list[float]:
    """Returns round numbers from 0 to just above `top`, four to seven of them."""
    if top <= 0:
        return [0, 1]
    raw = top / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw)
    count = math.ceil(round(top / step, 9))
    return [_plain(round(step * number, 10)) for number in range(count + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 of every decade from below `low` to above `high`."""
    low, high = max(low, 1e-9), max(high, 1e-9)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [round(m * 10.0**d, 10) for d in decades for m in (1, 2, 5)]
    begin = max((number for number, at in enumerate(every) if at <= low), default=0)
    end = next((number for number, at in enumerate(every) if at >= high), len(every) - 1)
    return [_plain(at) for at in every[begin : max(end, begin + 1) + 1]]


def _plain(value: float) -> float:
    return int(value) if value == int(value) else value


def _bars(results: Sequence[Mapping[str, Any]]) -> list[Plot]:
    found: dict[tuple[str, str], Plot] = {}
    for result in results:
        if result["metric"] not in _BARS:
            continue
        where = _where(result["case"])
        title = f"{result['title']}{', ' if where else ''}{where}"
        plot = found.setdefault(
            (result["metric"], where),
            {
                "kind": "bars",
                "figure": result["figure"],
                "metric": result["metric"],
                "title": title,
                "unit": result["unit"],
                "groups": [],
            },
        )
        label = _group(result["case"])
        group = next((it for it in plot["groups"] if it["label"] == label), None)
        if group is None:
            group = {"label": label, "bars": []}
            plot["groups"].append(group)
        group["bars"].append(
            {_WHOSE: result["case"].get(_WHOSE, "")}
            | {name: result[name] for name in ("median", "low", "high")}
        )
    for plot in found.values():
        plot["ticks"] = ticks(max(bar["high"] for group in plot["groups"] for bar in group["bars"]))
    order = {name: place for place, name in enumerate(_BARS)}
    return sorted(found.values(), key=lambda plot: order[plot["metric"]])


def _where(case: Mapping[str, str]) -> str:
    left = {k: v for k, v in case.items() if k != _WHOSE and k not in _GROUPS}
    return ", ".join(v if k in ("direction", "operation") else f"{k} {v}" for k, v in left.items())


def _group(case: Mapping[str, str]) -> str:
    words = {"size": "{} bytes", "streams": "{} streams"}
    named = [words[name].format(case[name]) for name in _GROUPS if name in case]
    text = ", ".join(named).replace("IMIX bytes", "IMIX")
    return "1 stream" if text == "1 streams" else text


def _lines(samples: Sequence[Mapping[str, Any]], figure: str, plot_of: _PlotOf) -> Iterable[Plot]:
    by_place: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        if sample["figure"] == figure:
            case = {k: str(v) for k, v in sample["case"].items()}
            where = ", ".join(text for text in (_group(case), _where(case)) if text)
            by_place.setdefault(where, []).append(sample)
    for where, there in by_place.items():
        plot = plot_of(figure, where, _one_each(there))
        if plot is not None:
            yield plot


def _one_each(samples: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns a sample of each subject: the last one that was left alone, or the last."""
    found: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        subject = str(sample["case"].get(_WHOSE, ""))
        before = found.get(subject)
        if before is None or before["marks"] or not sample["marks"]:
            found[subject] = sample
    return found


def _loss_plot(figure: str, where: str, samples: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    series = []
    for subject, sample in samples.items():
        points = sorted(
            [round(p["offered_bits_per_s"] / 1e6, 2), round(p["loss"] * 100, 3)]
            for p in sample["values"]["points"]
            if p["loss"] is not None
        )
        if points:
            series.append({_WHOSE: subject, "round": sample["round"], "points": points})
    if not series:
        return None
    return {
        "kind": "lines",
        "figure": figure,
        "title": f"loss against rate, {where}",
        "x": _axis("offered", "Mbit/s", ticks(max(p[0] for it in series for p in it["points"]))),
        "y": _axis("lost", "%", ticks(max(p[1] for it in series for p in it["points"]))),
        "series": series,
    }


def _latency_plot(figure: str, where: str, samples: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    series = []
    for subject, sample in samples.items():
        points = [
            [round(min(3.0, -math.log10(max(1e-9, 1 - step["share"]))), 3), step["us"]]
            for step in sample["values"].get("distribution", [])
        ]
        if points:
            series.append({_WHOSE: subject, "round": sample["round"], "points": points})
    if not series:
        return None
    values = [point[1] for it in series for point in it["points"]]
    how = "under load" if figure == "loaded" else "idle"
    shares = [{"at": at, "label": label} for at, label in enumerate(("0", "90", "99", "99.9"))]
    return {
        "kind": "lines",
        "figure": figure,
        "title": f"round trip {how}{', ' if where else ''}{where}",
        "x": {"title": "this share is at most as long", "unit": "%", "scale": "linear"}
        | {"ticks": shares},
        "y": {"title": "round trip", "unit": "us", "scale": "log"}
        | {"ticks": [{"at": at, "label": f"{at:g}"} for at in log_ticks(min(values), max(values))]},
        "series": series,
    }


def _axis(title: str, unit: str, at: Sequence[float]) -> dict[str, Any]:
    labels = [{"at": value, "label": f"{value:g}"} for value in at]
    return {"title": title, "unit": unit, "scale": "linear", "ticks": labels}
