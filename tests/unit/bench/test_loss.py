"""The search for the highest clean rate, against ways whose limit is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tunneld.bench.loss import CLEAN_LOSS, Found, Point, search


def found(way: Callable[[float], float], fastest: float, most_points: int = 12) -> Found:
    """Searches a way that loses a share at each rate."""
    steps = search(fastest, most_points)
    rate = next(steps)
    while True:
        try:
            rate = steps.send(Point(per_second=rate, loss=way(rate)))
        except StopIteration as ending:
            seen: Found = ending.value
            return seen


def bottleneck(limit: float, base: float = 0.0) -> Callable[[float], float]:
    return lambda rate: max(base, 1 - limit / rate)


@pytest.mark.parametrize("limit", [100.0, 3_333.0, 60_000.0, 99_000.0])
def test_it_comes_close_to_a_bottleneck_from_below(limit: float) -> None:
    seen = found(bottleneck(limit), 100_000.0, most_points=20)
    if limit < 100_000 / 64:
        assert seen.clean_per_second is None
    else:
        assert seen.clean_per_second is not None
        assert limit * 0.94 <= seen.clean_per_second <= limit * 1.002


def test_a_way_without_a_limit_is_as_fast_as_the_sender() -> None:
    seen = found(lambda _: 0.0, 5_000.0)
    assert (seen.clean_per_second, len(seen.points)) == (5_000.0, 1)


def test_a_way_that_always_loses_has_no_clean_rate_and_says_how_little_it_loses() -> None:
    seen = found(bottleneck(50_000, base=0.01), 100_000.0)
    assert seen.clean_per_second is None
    assert seen.least_loss == 0.01
    assert len(seen.points) <= 12


def test_it_never_asks_more_often_than_it_may() -> None:
    assert len(found(bottleneck(1.0), 1e9, most_points=5).points) == 5


def test_a_loss_at_the_bound_is_clean() -> None:
    assert found(lambda _: CLEAN_LOSS, 10.0).clean_per_second == 10.0
