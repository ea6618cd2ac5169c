"""What is measured, for how long, in which order. Pure.

In a round every case has its turn, and the subjects of one case follow each other, so that a
machine that changes its mind changes it for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Figure = Literal["tcp", "udp", "loss", "idle", "loaded"]
FIGURES: Final[tuple[Figure, ...]] = ("tcp", "udp", "loss", "idle", "loaded")
Size = int | Literal["IMIX"]
SIZES: Final[tuple[Size, ...]] = (64, 256, 1024, 1400, "IMIX")
STREAMS: Final = (1, 4, 16)

_SETUP_S: Final = 0.25
"""Connecting, and telling that it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What of everything is measured."""

    rounds: int
    figures: Sequence[Figure] = FIGURES
    sizes: Sequence[Size] = SIZES
    streams: Sequence[int] = STREAMS
    loss_size: int = 1024
    stream_s: float = 3.0
    datagrams_s: float = 1.0
    round_trips_s: float = 2.0
    loss_point_s: float = 0.7
    loss_points: int = 8
    budget_s: float | None = None
    """After this no further step begins."""
    loss_rounds: int = 1
    """The search is a measurement of many; its rate is a bound, and needs fewer rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One sample to take."""

    figure: Figure
    round: int
    subject: str
    case: Mapping[str, Any] = field(default_factory=dict)
    """What else tells it from others."""
    seconds: float
    """About how long it takes."""


def steps(scope: Scope, subjects: Sequence[str], about: Mapping[str, Any]) -> Iterator[Step]:
    """Yields the steps of all rounds; `about` goes into every case."""
    for number in range(1, scope.rounds + 1):
        for figure, case, seconds in _cases(scope, number):
            # Every other round begins at the other end: no subject always follows the same one.
            order = subjects if number % 2 else list(reversed(subjects))
            for subject in order:
                yield Step(
                    figure=figure,
                    round=number,
                    subject=subject,
                    case={**about, **case},
                    seconds=seconds + _SETUP_S,
                )


def _cases(scope: Scope, number: int) -> Iterator[tuple[Figure, dict[str, Any], float]]:
    for figure in scope.figures:
        match figure:
            case "tcp":
                for streams in scope.streams:
                    yield figure, {"streams": streams}, scope.stream_s
            case "udp":
                for size in scope.sizes:
                    yield figure, {"size": size}, scope.datagrams_s
            case "loss":
                if number <= scope.loss_rounds:
                    point_s = scope.loss_point_s + _SETUP_S
                    yield figure, {"size": scope.loss_size}, point_s * scope.loss_points
            case "idle" | "loaded":
                yield figure, {}, scope.round_trips_s
