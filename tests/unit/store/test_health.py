from __future__ import annotations

import logging

import pytest

from tunneld.store.health import Health


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_outage_is_told_once_and_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunneld.store")
    clock = Clock()
    health = Health("etcd", "http://192.0.2.1:2379", clock)
    for _ in range(121):
        health.failed("http://192.0.2.1:2379", "refused")
        clock.now += 1
    health.answered("http://192.0.2.1:2379", 7)
    health.answered("http://192.0.2.1:2379", 8)
    assert [record.getMessage() for record in caplog.records] == [
        *["store does not answer, trying again"] * 3,
        "store connected",
    ]
    assert health.status().revision == 8


def test_changed_cause_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    health = Health("etcd", "e", clock)
    for cause in ("refused", "refused", "certificate expired", "certificate expired", "full"):
        health.failed("e", cause)
        clock.now += 1
    told = [record.__dict__["fields"]["error"] for record in caplog.records]
    assert told == ["refused", "certificate expired", "full"]


def test_flapping_connection_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tunneld.store")
    clock = Clock()
    health = Health("etcd", "e", clock)
    for _ in range(600):
        health.answered("e", 1)
        health.failed("e", "ended")
        clock.now += 0.1
    assert len(caplog.records) <= 2 * 60 / 10 + 2


def test_problem_is_known_only_while_it_lasts() -> None:
    health = Health("etcd", "e", Clock())
    assert health.status().connected is False
    health.failed("e2", "refused")
    assert (health.status().problem, health.status().endpoint) == ("refused", "e2")
    health.answered("e", 3)
    assert (health.status().connected, health.status().problem) == (True, None)
