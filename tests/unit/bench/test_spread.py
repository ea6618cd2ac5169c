"""Medians, quartiles, percentiles: values worked out by hand."""

from __future__ import annotations

import pytest

from tunneld.bench.spread import percentile, spread, steps


def test_the_median_of_five_stands_between_the_second_and_the_fourth() -> None:
    seen = spread([50.0, 10.0, 30.0, 20.0, 40.0])
    assert seen is not None
    assert (seen.median, seen.low, seen.high, seen.count) == (30.0, 20.0, 40.0, 5)


def test_one_value_is_its_own_quartiles_and_none_is_nothing() -> None:
    alone = spread([7.0])
    assert alone is not None
    assert (alone.median, alone.low, alone.high, alone.count) == (7.0, 7.0, 7.0, 1)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 500), (0.99, 990), (0.999, 999), (1.0, 1000), (0.0, 1)]
)
def test_a_percentile_is_a_value_that_was_seen(share: float, expected: int) -> None:
    assert percentile(list(range(1000, 0, -1)), share) == expected


def test_a_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no value"):
        percentile([], 0.5)


def test_the_steps_of_a_distribution_rise_to_the_longest_of_a_thousand() -> None:
    points = steps([float(value) for value in range(1, 1001)], 4)
    assert [value for value, _ in points] == [1.0, 900.0, 990.0, 999.0]
    assert steps([], 4) == []
