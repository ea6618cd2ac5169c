"""Medians, quartiles and percentiles of a few values. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median between its quartiles."""

    median: float
    low: float
    high: float
    count: int

    def overlaps(self, other: Spread) -> bool:
        """Returns whether the quartiles of both share a value."""
        return self.low <= other.high and other.low <= self.high


def spread(values: Sequence[float]) -> Spread | None:
    """Returns the median of values and their quartiles (inclusive method); None of no value."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0], count=1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high, count=len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` (0 to 1) of all do not exceed.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        msg = "percentile of no value"
        raise ValueError(msg)
    ordered = sorted(values)
    # Nearest rank: always one of the values that were seen.
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def steps(values: Sequence[float], count: int) -> list[tuple[float, float]]:
    """Returns points (value, share of values at or below it) that draw a distribution.

    `count` of them, closer together towards the longest values.
    """
    if not values:
        return []
    shares = [1 - 10 ** (-3 * number / (count - 1)) for number in range(count)]
    return [(percentile(values, share), share) for share in shares]
