"""What raw figures come to: medians with quartiles, ratios to neighbours, aims met or missed. Pure.

A ratio to kernel vxlan is taken in each round, tunneld's value by the mean of its two neighbours,
and only then the median over the rounds: what the machine does to all three at once cancels out.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

TUNNELD: Final = "tunneld"
VXLAN: Final = "kernel vxlan"
FLANNEL: Final = "flannel udp"
LOUD_SHARE: Final = 0.15
"""From this share of all cores on, other programs are worth a word beside the figures."""

Sample = dict[str, Any]
Bound = Literal["<=", ">="]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of some values and the quartiles around it."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """Returns the median and the quartiles (inclusive method); None: there are no values."""
    known = sorted(values)
    if not known:
        return None
    if len(known) == 1:
        return Spread(median=known[0], low=known[0], high=known[0], count=1)
    low, median, high = statistics.quantiles(known, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high, count=len(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A quantity of a figure's samples."""

    figure: str
    name: str
    unit: str
    of: Callable[[Sample], float | None]
    """Takes it out of a sample; None: the sample does not tell."""
    decimals: int = 2


def _member(name: str, scale: float = 1.0) -> Callable[[Sample], float | None]:
    return lambda sample: sample[name] * scale


def _tunnel(name: str) -> Callable[[Sample], float | None]:
    """A cost of the tunnel's processes; the kernel's vxlan has none it could be charged to."""
    return lambda sample: None if sample["overlay"] == VXLAN else sample[name]


def _retransmits_per_gb(sample: Sample) -> float:
    return float(sample["retransmits"] / sample["bytes"] * 1e9)


def _percentile(percent: int) -> Callable[[Sample], float | None]:
    def of(sample: Sample) -> float | None:
        trips = sorted(sample["round_trips_us"])
        return trips[(len(trips) - 1) * percent // 100] if trips else None

    return of


def _tcp(figure: str, streams: str) -> tuple[Metric, ...]:
    return (
        Metric(figure=figure, name=streams, unit="Gbit/s", of=_member("bits_per_s", 1e-9)),
        Metric(
            figure=figure,
            name=f"{streams}: tunnel CPU",
            unit="s/GB",
            of=_tunnel("tunnel_cpu_s_per_gb"),
        ),
        Metric(
            figure=figure,
            name=f"{streams}: CPU of the whole machine",
            unit="s/GB",
            of=_member("machine_cpu_s_per_gb"),
        ),
        Metric(
            figure=figure,
            name=f"{streams}: retransmits",
            unit="per GB",
            of=_retransmits_per_gb,
            decimals=0,
        ),
    )


TCP_1: Final = _tcp("tcp1", "TCP, 1 stream")
TCP_4: Final = _tcp("tcp4", "TCP, 4 streams")
FLOOD: Final = (
    Metric(
        figure="flood",
        name="64-byte UDP flood: delivered",
        unit="1000/s",
        of=_member("delivered_per_s", 1e-3),
        decimals=0,
    ),
    Metric(
        figure="flood",
        name="64-byte UDP flood: tunnel CPU",
        unit="us/datagram",
        of=_tunnel("tunnel_us_per_datagram"),
    ),
)
ROUND_TRIP: Final = tuple(
    Metric(
        figure="round trip",
        name=f"idle round trip, p{percent}",
        unit="us",
        of=_percentile(percent),
        decimals=0,
    )
    for percent in (50, 99)
)
METRICS: Final = (*TCP_1, *TCP_4, *FLOOD, *ROUND_TRIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A row of the table of aims: a value that is to be at least or at most a bound."""

    name: str
    unit: str
    flavour: str
    bound: float
    is_at_most: bool
    seen: Spread
    decimals: int = 2

    @property
    def is_met(self) -> bool:
        """Returns whether the median is on the right side."""
        median = self.seen.median
        return median <= self.bound if self.is_at_most else median >= self.bound


class Evaluation:
    """A raw document, asked for what it comes to."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.samples: list[Sample] = document["samples"]

    @property
    def flavours(self) -> list[str]:
        return list(dict.fromkeys(sample["flavour"] for sample in self.samples))

    @property
    def overlays(self) -> list[str]:
        return list(dict.fromkeys(sample["overlay"] for sample in self.samples))

    def of(self, flavour: str, figure: str, overlay: str) -> list[Sample]:
        """Returns the samples of a figure in the order they were taken."""
        wanted = (flavour, figure, overlay)
        return [s for s in self.samples if (s["flavour"], s["figure"], s["overlay"]) == wanted]

    def values(self, flavour: str, metric: Metric, overlay: str) -> list[float]:
        samples = self.of(flavour, metric.figure, overlay)
        return [value for sample in samples if (value := metric.of(sample)) is not None]

    def spread(self, flavour: str, metric: Metric, overlay: str) -> Spread | None:
        return spread(self.values(flavour, metric, overlay))

    def ratios(self, flavour: str, metric: Metric, other: str) -> list[float]:
        """Returns tunneld's value by the mean of the other's, round by round."""
        ours = self.by_round(flavour, metric, TUNNELD)
        theirs = self.by_round(flavour, metric, other)
        return [
            statistics.mean(ours[number]) / statistics.mean(theirs[number])
            for number in ours
            if number in theirs and statistics.mean(theirs[number]) > 0
        ]

    def by_round(self, flavour: str, metric: Metric, overlay: str) -> dict[int, list[float]]:
        """Returns an overlay's values by their round."""
        return _by_round(self.of(flavour, metric.figure, overlay), metric)

    def retransmits_per_gb(self, flavour: str, overlay: str) -> float | None:
        """Returns all retransmits of the run by all its gigabytes: single ones are too few."""
        samples = [s for name in ("tcp1", "tcp4") for s in self.of(flavour, name, overlay)]
        size_bytes = sum(sample["bytes"] for sample in samples)
        retransmits = sum(sample["retransmits"] for sample in samples)
        return retransmits / size_bytes * 1e9 if size_bytes else None

    def aims(self) -> list[Aim]:
        """Returns the aims for what was measured, in the order of the table."""
        rows = [
            *self._costs({"wire": 2.2, "gso": 0.75}),
            *self._ratios(TCP_1[0], VXLAN, ">=", {"wire": 0.80, "gso": 0.80}),
            *self._ratios(TCP_4[0], VXLAN, ">=", {"wire": 0.65, "gso": 0.60}),
            *self._ratios(TCP_1[0], FLANNEL, ">=", {"wire": 5.0, "gso": 13.0}),
            *self._ratios(TCP_1[0], VXLAN, ">=", {"wiregro": 0.95}),
            *self._ratios(FLOOD[0], VXLAN, ">=", {"wire": 1.25, "gso": 1.8}),
            *self._ratios(ROUND_TRIP[0], FLANNEL, "<=", {"wire": 0.8, "gso": 0.8}),
        ]
        for flavour in ("wire", "gso"):
            ours, theirs = (self.retransmits_per_gb(flavour, name) for name in (TUNNELD, VXLAN))
            if ours is not None and theirs is not None:
                rows.append(
                    Aim(
                        name=f"retransmits of all TCP (aim: {VXLAN}'s)",
                        unit="per GB",
                        flavour=flavour,
                        bound=theirs,
                        is_at_most=True,
                        seen=Spread(median=ours, low=ours, high=ours, count=1),
                        decimals=1,
                    )
                )
        return rows

    def loud(self) -> tuple[int, float]:
        """Returns how many samples other programs took part in, and their median share."""
        shares = [sample["foreign_share"] for sample in self.samples]
        return sum(share > LOUD_SHARE for share in shares), statistics.median(shares)

    def _costs(self, bounds: dict[str, float]) -> list[Aim]:
        found = [(flavour, self.spread(flavour, TCP_1[1], TUNNELD)) for flavour in bounds]
        return [
            Aim(
                name="tunnel CPU of both hosts, TCP 1 stream",
                unit="s/GB",
                flavour=flavour,
                bound=bounds[flavour],
                is_at_most=True,
                seen=seen,
            )
            for flavour, seen in found
            if seen is not None
        ]

    def _ratios(
        self, metric: Metric, other: str, bound: Bound, bounds: dict[str, float]
    ) -> list[Aim]:
        found = [(flavour, spread(self.ratios(flavour, metric, other))) for flavour in bounds]
        return [
            Aim(
                name=f"{metric.name} / {other}",
                unit="",
                flavour=flavour,
                bound=bounds[flavour],
                is_at_most=bound == "<=",
                seen=seen,
            )
            for flavour, seen in found
            if seen is not None
        ]


def evaluate(document: dict[str, Any]) -> Evaluation:
    return Evaluation(document)


def _by_round(samples: Sequence[Sample], metric: Metric) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for sample in samples:
        value = metric.of(sample)
        if value is not None:
            found.setdefault(sample["round"], []).append(value)
    return found
