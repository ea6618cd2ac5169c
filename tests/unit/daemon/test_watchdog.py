"""When a thread of the data path counts as hung."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunneld.daemon.watchdog import Heartbeats


def test_thread_that_does_not_beat_for_the_patience_is_named() -> None:
    beats = Heartbeats(patience_s=2.0)
    assert beats.stuck({"outbound 0": 1, "inbound 0": 1}, 10.0) is None
    assert beats.stuck({"outbound 0": 1, "inbound 0": 2}, 12.0) is None
    assert beats.stuck({"outbound 0": 1, "inbound 0": 3}, 12.1) == "outbound 0"


def test_one_beat_begins_the_time_anew() -> None:
    beats = Heartbeats(patience_s=2.0)
    beats.stuck({"outbound 0": 1}, 0.0)
    assert beats.stuck({"outbound 0": 1}, 3.0) == "outbound 0"
    assert beats.stuck({"outbound 0": 2}, 3.5) is None
    assert beats.stuck({"outbound 0": 2}, 5.5) is None
    assert beats.stuck({"outbound 0": 2}, 5.6) == "outbound 0"


def test_data_path_that_was_built_anew_counts_from_nothing() -> None:
    beats = Heartbeats(patience_s=2.0)
    beats.stuck({"outbound 0": 500, "outbound 1": 500}, 0.0)
    assert beats.stuck({"outbound 0": 1}, 3.0) is None
    assert beats.stuck({"outbound 0": 1}, 5.1) == "outbound 0"


@given(st.lists(st.floats(min_value=0.01, max_value=1.9), min_size=1, max_size=50))
def test_thread_that_beats_within_the_patience_is_never_named(pauses: list[float]) -> None:
    beats = Heartbeats(patience_s=2.0)
    now_s = 0.0
    for count, pause_s in enumerate(pauses):
        now_s += pause_s
        assert beats.stuck({"inbound 0": count}, now_s) is None
