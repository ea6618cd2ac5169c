"""What changed beyond noise, and what nothing can be said about."""

from __future__ import annotations

from typing import Any

import pytest

from tunneld.bench.compare import compare, differences
from tunneld.bench.table import changes_as_text


def document(
    median: float, low: float, high: float, *, undisturbed: int = 5, **machine: object
) -> dict[str, Any]:
    result = {
        "metric": "tcp-rate",
        "title": "TCP throughput",
        "unit": "Gbit/s",
        "case": {"subject": "esp", "streams": "1"},
        "median": median,
        "low": low,
        "high": high,
        "rounds": 5,
        "undisturbed": undisturbed,
    }
    return {"results": [result], "machine": machine}


BEFORE = document(10.0, 9.0, 11.0)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (document(13.0, 12.0, 14.0), "more"),
        (document(7.0, 6.0, 8.0), "less"),
        (document(10.8, 10.5, 12.0), "no change beyond noise"),
        (document(5.0, 4.0, 6.0, undisturbed=2), "cannot be compared"),
    ],
)
def test_the_verdict_goes_by_quartiles_and_undisturbed_rounds(
    after: dict[str, Any], verdict: str
) -> None:
    [change] = compare(BEFORE, after)
    assert change.verdict == verdict


def test_the_text_names_what_changed_by_how_much_and_why_something_cannot_be_compared() -> None:
    changed = changes_as_text(compare(BEFORE, document(13.0, 12.0, 14.0)), [])
    assert "TCP throughput: esp, 1" in changed
    assert "+30.0 %" in changed
    unclear = changes_as_text(compare(BEFORE, document(5, 4, 6, undisturbed=2)), [])
    assert "cannot be compared" in unclear
    assert "2 of 5 rounds after undisturbed" in unclear
    assert "0 of 1 results without a change" in unclear


def test_other_machines_and_missing_results_are_named() -> None:
    other = document(1, 1, 1, kernel="6.2")
    other["results"] = []
    said = differences(document(1, 1, 1, kernel="6.1"), other)
    assert "kernel: 6.1 before, 6.2 after" in said
    assert "1 results are only in what was measured before" in said
