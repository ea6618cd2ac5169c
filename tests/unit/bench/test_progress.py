"""What is left, and for how long."""

from __future__ import annotations

import io

import pytest

from tunneld.bench.progress import Progress, left_s, spoken


@pytest.mark.parametrize(
    ("total", "done", "passed", "expected"),
    [(100, 0, 0, 100), (100, 50, 50, 50), (100, 50, 100, 100), (100, 100, 90, 0), (0, 0, 0, 0)],
)
def test_what_took_twice_as_long_will_take_twice_as_long(
    total: float, done: float, passed: float, expected: float
) -> None:
    assert left_s(total, done, passed) == expected


def test_durations_are_spoken() -> None:
    assert [spoken(s) for s in (0.4, 59, 61, 600)] == ["0 s", "59 s", "1 min 01 s", "10 min 00 s"]


def test_a_step_names_what_runs_and_what_is_left() -> None:
    stream = io.StringIO()
    Progress(90.0, 3, stream).step("round 1: tcp", 30.0)
    assert stream.getvalue() == "[1/3] round 1: tcp; about 1 min 30 s left\n"
