"""From samples to results: a median with quartiles for each case, and ratios to a base. Pure.

A ratio is taken within a round, where both were measured seconds apart, and its median is over the
rounds: so a machine that drifts does not drift into it. Marked samples count only where a case
has no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tunneld.bench.spread import Spread, spread

Sample = Mapping[str, Any]
Case = tuple[tuple[str, str], ...]
"""What tells a measurement from others: names and values, in a fixed order."""

SUBJECT: Final = "subject"
"""The member of a case that is compared: ratios are between subjects, all else alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number of a sample, as it is shown."""

    name: str
    figure: str
    key: str
    title: str
    unit: str
    scale: float = 1.0
    decimals: int = 2
    is_more_better: bool = False


METRICS: Final[tuple[Metric, ...]] = (
    Metric(name="aead-ns", figure="aead", key="ns", title="one text", unit="ns", decimals=1),
    Metric(
        name="aead-rate", figure="aead", key="bytes_per_s", title="throughput", unit="GB/s",
        scale=1e-9, decimals=3, is_more_better=True,
    ),
    Metric(
        name="aead-cycles", figure="aead", key="cycles_per_byte", title="cycles per byte",
        unit="cycles/B", decimals=3,
    ),
    Metric(
        name="tcp-rate", figure="tcp", key="bits_per_s", title="TCP throughput", unit="Gbit/s",
        scale=1e-9, decimals=3, is_more_better=True,
    ),
    Metric(
        name="tcp-tunnel-cpu", figure="tcp", key="tunnel_cpu_s_per_gb",
        title="CPU of the tunnel, both ends, TCP", unit="s/GB", decimals=3,
    ),
    Metric(
        name="tcp-cpu", figure="tcp", key="cpu_s_per_gb", title="CPU of the machine, TCP",
        unit="s/GB", decimals=3,
    ),
    Metric(
        name="tcp-near-cpu", figure="tcp", key="near_cpu_s_per_gb", title="CPU of this host, TCP",
        unit="s/GB", decimals=3,
    ),
    Metric(
        name="tcp-far-cpu", figure="tcp", key="far_cpu_s_per_gb",
        title="CPU of the other host, TCP", unit="s/GB", decimals=3,
    ),
    Metric(
        name="udp-packets", figure="udp", key="delivered_per_s", title="UDP datagrams delivered",
        unit="1000/s", scale=1e-3, decimals=2, is_more_better=True,
    ),
    Metric(
        name="udp-rate", figure="udp", key="delivered_bits_per_s", title="UDP throughput",
        unit="Gbit/s", scale=1e-9, decimals=4, is_more_better=True,
    ),
    Metric(
        name="udp-loss", figure="udp", key="loss", title="UDP loss at full speed", unit="%",
        scale=100, decimals=3,
    ),
    Metric(
        name="udp-tunnel-cpu", figure="udp", key="tunnel_us_per_datagram",
        title="CPU of the tunnel, both ends, UDP", unit="us/datagram", decimals=3,
    ),
    Metric(
        name="udp-cpu", figure="udp", key="cpu_s_per_gb", title="CPU of the machine, UDP",
        unit="s/GB", decimals=3,
    ),
    Metric(
        name="udp-near-cpu", figure="udp", key="near_cpu_s_per_gb", title="CPU of this host, UDP",
        unit="s/GB", decimals=3,
    ),
    Metric(
        name="udp-far-cpu", figure="udp", key="far_cpu_s_per_gb",
        title="CPU of the other host, UDP", unit="s/GB", decimals=3,
    ),
    Metric(
        name="clean-rate", figure="loss", key="clean_bits_per_s",
        title="highest UDP rate with at most 0.1 % loss", unit="Mbit/s", scale=1e-6, decimals=2,
        is_more_better=True,
    ),
    Metric(
        name="least-loss", figure="loss", key="least_loss", title="least loss at any rate",
        unit="%", scale=100, decimals=3,
    ),
    *(
        Metric(
            name=f"{figure}-{key}", figure=figure, key=key,
            title=f"round trip {how}, {key.replace('p999', 'p99.9')}", unit="us", decimals=1,
        )
        for figure, how in (("idle", "idle"), ("loaded", "under load"))
        for key in ("p50", "p99", "p999")
    ),
    *(
        Metric(
            name=f"{figure}-lost", figure=figure, key="lost_share",
            title=f"round trips lost {how}", unit="%", scale=100, decimals=2,
        )
        for figure, how in (("idle", "idle"), ("loaded", "under load"))
    ),
)  # fmt: skip


def results(samples: Sequence[Sample], base: str | None) -> list[dict[str, Any]]:
    """Returns a result for each case and metric that was measured, in the order they came.

    `base` is the subject that ratios are to. Values are scaled and rounded as they are shown.
    """
    cases: dict[tuple[str, Case], list[Sample]] = {}
    for sample in samples:
        cases.setdefault((sample["figure"], case_of(sample)), []).append(sample)
    found = []
    for (figure, case), of_case in cases.items():
        of_base = cases.get((figure, _with_subject(case, base)), []) if base is not None else []
        for metric in METRICS:
            if metric.figure == figure:
                one = _result(metric, case, of_case, of_base, base)
                if one is not None:
                    found.append(one)
    return found


def case_of(sample: Sample) -> Case:
    """Returns what tells a sample's measurement from others."""
    return tuple((name, str(value)) for name, value in sample["case"].items())


def _with_subject(case: Case, subject: str | None) -> Case:
    return tuple((name, subject or "" if name == SUBJECT else value) for name, value in case)


def _result(
    metric: Metric,
    case: Case,
    of_case: Sequence[Sample],
    of_base: Sequence[Sample],
    base: str | None,
) -> dict[str, Any] | None:
    usable = [s for s in of_case if s["values"].get(metric.key) is not None]
    if not usable:
        return None
    clean = [s for s in usable if not s["marks"]]
    seen = spread([s["values"][metric.key] * metric.scale for s in clean or usable])
    assert seen is not None  # noqa: S101 - there is a sample
    said: dict[str, Any] = {
        "figure": metric.figure,
        "metric": metric.name,
        "title": metric.title,
        "unit": metric.unit,
        "case": dict(case),
        **_rounded(seen, metric.decimals),
        "rounds": len(usable),
        "undisturbed": len(clean),
    }
    if base is not None and dict(case).get(SUBJECT) != base:
        ratio = spread(list(_ratios(metric.key, usable, of_base)))
        if ratio is not None:
            said["ratio"] = {"to": base} | _rounded(ratio, 3)
    return said


def _rounded(seen: Spread, decimals: int) -> dict[str, float]:
    values = asdict(seen)
    del values["count"]
    return {name: round(value, decimals) for name, value in values.items()}


def _ratios(key: str, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Iterable[float]:
    """Yields the ratios of rounds in which both were left alone, or of all if there is none."""
    pairs = [
        (one, other)
        for one in ours
        for other in theirs
        if one["round"] == other["round"] and other["values"].get(key)
    ]
    clean = [pair for pair in pairs if not pair[0]["marks"] and not pair[1]["marks"]]
    for one, other in clean or pairs:
        yield one["values"][key] / other["values"][key]
