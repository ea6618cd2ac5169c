"""The search for the highest rate with hardly any loss. Pure: who searches asks for each rate.

First down from a rate by halves until one is clean, then between the lowest that lost and the
highest that did not, until they are close. A way that loses some at any rate has no such rate.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Final

CLEAN_LOSS: Final = 0.001
"""Of all datagrams: RFC 2544 would have none, which nothing that shares a processor keeps."""
CLOSE: Final = 1.05
"""The highest clean rate is found when the next that was not is no further away."""
_LOWEST_SHARE: Final = 1 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What came of sending at a rate."""

    per_second: float
    """Datagrams that were sent for each second, which may be fewer than were asked for."""
    loss: float
    """Share of them, 0 to 1."""


@dataclass(slots=True)
class Found:
    """What a search came to."""

    points: list[Point] = field(default_factory=list)
    clean_per_second: float | None = None
    """None: at no rate that was tried."""

    @property
    def least_loss(self) -> float:
        return min((point.loss for point in self.points), default=1.0)


def search(fastest: float, most_points: int) -> Generator[float, Point, Found]:
    """Yields the rates to try, takes what came of each, returns what was found.

    `fastest` is the highest rate that the sender can reach, in datagrams a second.
    """
    found = Found()
    dirty: float | None = None
    rate = fastest
    while len(found.points) < most_points and rate >= fastest * _LOWEST_SHARE:
        point = yield rate
        found.points.append(point)
        if point.loss <= CLEAN_LOSS:
            found.clean_per_second = max(found.clean_per_second or 0.0, point.per_second)
            if dirty is None:  # it cannot send faster
                break
        else:
            dirty = min(dirty, rate) if dirty is not None else rate
        if found.clean_per_second is None:
            rate = dirty / 2 if dirty is not None else rate / 2
        elif dirty is not None:
            if dirty / found.clean_per_second <= CLOSE:
                break
            rate = (dirty * found.clean_per_second) ** 0.5
    return found
