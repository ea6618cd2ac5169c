"""When the data threads give up batch scheduling, and when they try it again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.daemon.scheduling import Choice, Scheduling, is_held_up
from tunneld.errors import HostError
from tunneld.host.scheduling import Policy, RunTimes

DAY_S = 24 * 3600


def had(*, ran_ms: float, waited_ms: float, slices: int) -> RunTimes:
    return RunTimes(ran_ns=round(ran_ms * 1e6), waited_ns=round(waited_ms * 1e6), slices=slices)


# One second each, as measured on two processors.
IDLE = had(ran_ms=0.1, waited_ms=0.01, slices=1)
PINGED = had(ran_ms=4, waited_ms=1, slices=100)
BULK_TCP = had(ran_ms=480, waited_ms=470, slices=1100)
FLOOD = had(ran_ms=700, waited_ms=290, slices=250)
BUSY_LOOPS = had(ran_ms=5, waited_ms=160, slices=100)

CALM = (IDLE, PINGED, BULK_TCP, FLOOD)


class Daemon:
    """A choice that takes a reading of two threads each second."""

    def __init__(self) -> None:
        self.choice = Choice()
        self.now_s = 0.0
        self.changes: list[tuple[float, Policy]] = []
        self.causes: list[str] = []
        self._total = RunTimes(ran_ns=0, waited_ns=0, slices=1)
        self.second(IDLE)

    def second(self, times: RunTimes) -> None:
        self._total = RunTimes(
            ran_ns=self._total.ran_ns + times.ran_ns,
            waited_ns=self._total.waited_ns + times.waited_ns,
            slices=self._total.slices + times.slices,
        )
        idle = RunTimes(ran_ns=1, waited_ns=1, slices=1)
        cause = self.choice.take({"outbound 0": idle, "inbound 0": self._total}, self.now_s)
        if cause is not None:
            self.changes.append((self.now_s, self.choice.policy))
            self.causes.append(cause)
        self.now_s += 1

    def seconds(self, count: int, times: RunTimes) -> None:
        for _ in range(count):
            self.second(times)


@pytest.mark.parametrize("times", CALM)
def test_threads_that_have_their_share_stay_batch(times: RunTimes) -> None:
    daemon = Daemon()
    daemon.seconds(100, times)
    assert daemon.choice.policy == "batch"
    assert daemon.changes == []


def test_busy_loops_on_all_processors_make_them_normal_in_the_second_interval() -> None:
    daemon = Daemon()
    daemon.second(BUSY_LOOPS)
    assert daemon.changes == []
    daemon.second(BUSY_LOOPS)
    assert daemon.changes == [(2, "normal")]
    assert daemon.causes == [
        "inbound 0 waited 160 ms for a processor and ran 5.0 ms, in 100 slices"
    ]


def test_one_interval_in_two_is_no_reason() -> None:
    daemon = Daemon()
    for _ in range(100):
        daemon.second(BUSY_LOOPS)
        daemon.second(PINGED)
    assert daemon.changes == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (had(ran_ms=0.1, waited_ms=1.5, slices=3), True),
        (had(ran_ms=0.1, waited_ms=1.4, slices=3), False),
        (had(ran_ms=0.1, waited_ms=90, slices=2), False),
        (had(ran_ms=25, waited_ms=100, slices=20), False),
        (had(ran_ms=24.9, waited_ms=100, slices=20), True),
        (had(ran_ms=0, waited_ms=0, slices=0), False),
        (had(ran_ms=-5, waited_ms=-1, slices=-7), False),  # counted anew by the kernel
    ],
)
def test_held_up_is_long_often_and_more_than_it_runs(times: RunTimes, expected: bool) -> None:
    assert is_held_up(times) is expected


def test_batch_is_tried_again_after_a_hold_that_doubles_while_it_does_not_last() -> None:
    daemon = Daemon()
    daemon.seconds(3 * DAY_S, BUSY_LOOPS)
    normal = [end - begin for begin, end in spells(daemon, "normal")]
    assert normal[:9] == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert set(normal[9:]) == {600}
    assert {end - begin for begin, end in spells(daemon, "batch")} == {2}


@pytest.mark.parametrize(("calm_s", "hold_s"), [(57, 40), (58, 10)])
def test_a_minute_of_calm_makes_the_hold_short_again(calm_s: int, hold_s: int) -> None:
    daemon = Daemon()
    while len(daemon.changes) < 4:
        daemon.second(BUSY_LOOPS)
    daemon.seconds(calm_s, PINGED)
    daemon.seconds(2, BUSY_LOOPS)
    assert daemon.choice.policy == "normal"
    assert daemon.choice.hold_s == hold_s


def test_a_thread_that_is_new_is_not_charged_with_what_it_had_before() -> None:
    choice = Choice()
    for now_s in range(10):
        name = f"outbound {now_s}"
        assert choice.take({name: had(ran_ms=1, waited_ms=900, slices=100)}, now_s) is None


def spells(daemon: Daemon, policy: Policy) -> list[tuple[float, float]]:
    """Returns when each spell of a policy began and ended, of those that a change began."""
    return [
        (begin, end) for (begin, began), (end, _) in pairwise(daemon.changes) if began == policy
    ]


@given(st.lists(st.tuples(st.sampled_from((*CALM, BUSY_LOOPS)), st.integers(1, 80)), max_size=60))
def test_changes_are_never_more_than_the_holds_allow(runs: list[tuple[RunTimes, int]]) -> None:
    daemon = Daemon()
    for times, count in runs:
        daemon.seconds(count, times)
    assert [policy for _, policy in daemon.changes] == [
        "normal" if index % 2 == 0 else "batch" for index in range(len(daemon.changes))
    ]
    early = 0  # spells of batch in a row that ended within a minute
    batches = [None, *spells(daemon, "batch")]
    for batch, (begin, end) in zip(batches, spells(daemon, "normal"), strict=False):
        if batch is not None:
            assert batch[1] - batch[0] >= 2
            early = early + 1 if batch[1] - batch[0] < 60 else 0
        assert end - begin == min(10 * 2**early, 600)


class Waiting:
    """Two threads of this test that wait, and what they are said to have had; a second a step."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self.is_over.wait) for _ in range(2)]
        for thread in self.threads:
            thread.start()
        self.had = IDLE
        self._totals: dict[int, RunTimes] = {}
        self.now_s = 0.0

    def ids(self) -> dict[str, int]:
        names = ("outbound 0", "inbound 0")
        return {
            name: thread.native_id
            for name, thread in zip(names, self.threads, strict=True)
            if thread.native_id is not None
        }

    def read(self, thread_id: int) -> RunTimes | None:
        total = self._totals.get(thread_id, RunTimes(ran_ns=0, waited_ns=0, slices=1))
        self._totals[thread_id] = RunTimes(
            ran_ns=total.ran_ns + self.had.ran_ns,
            waited_ns=total.waited_ns + self.had.waited_ns,
            slices=total.slices + self.had.slices,
        )
        return self._totals[thread_id]

    def clock(self) -> float:
        self.now_s += 1
        return self.now_s

    def policies(self) -> set[int]:
        return {os.sched_getscheduler(thread_id) for thread_id in self.ids().values()}


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    waiting = Waiting()
    yield waiting
    waiting.is_over.set()
    for thread in waiting.threads:
        thread.join()


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.__dict__["fields"]
    return found


def test_the_threads_get_what_is_chosen_and_the_log_says_why(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tunneld.daemon")
    scheduling = Scheduling(waiting.ids, "auto", read=waiting.read, clock=waiting.clock)
    assert scheduling.step()
    assert waiting.policies() == {os.SCHED_BATCH}
    waiting.had = BUSY_LOOPS
    assert [scheduling.step(), scheduling.step()] == [True, True]
    assert waiting.policies() == {os.SCHED_OTHER}
    for _ in range(9):
        scheduling.step()
    assert waiting.policies() == {os.SCHED_OTHER}
    scheduling.step()
    assert waiting.policies() == {os.SCHED_BATCH}
    assert [fields(record) for record in caplog.records] == [
        {
            "policy": "normal",
            "detail": "outbound 0 waited 160 ms for a processor and ran 5.0 ms, in 100 slices",
            "wait_s": 10,
        },
        {"policy": "batch", "detail": "tried again after 10 s"},
    ]


def test_a_kernel_that_stops_counting_makes_them_normal_for_good(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    is_counting = True

    def read(thread_id: int) -> RunTimes | None:
        if not is_counting:
            raise HostError(f"{thread_id} is not counted")
        return waiting.read(thread_id)

    scheduling = Scheduling(waiting.ids, "auto", read=read)
    assert scheduling.step()
    assert waiting.policies() == {os.SCHED_BATCH}
    is_counting = False
    assert not scheduling.step()
    assert waiting.policies() == {os.SCHED_OTHER}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "is not counted" in fields(record)["error"]


def test_a_thread_that_ends_is_passed_over(
    waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    assert ended.native_id is not None
    ids = {"inbound 1": ended.native_id, **waiting.ids()}
    for asked in ("auto", "batch"):
        scheduling = Scheduling(lambda: ids, asked)
        assert scheduling.step()
        assert scheduling.step()
        assert waiting.policies() == {os.SCHED_BATCH}
    assert caplog.records == []


def test_a_thread_that_begins_late_gets_the_policy_too(waiting: Waiting) -> None:
    ids: dict[str, int] = {}
    scheduling = Scheduling(lambda: ids, "batch")
    scheduling.step()
    assert waiting.policies() == {os.SCHED_OTHER}
    ids.update(waiting.ids())
    scheduling.step()
    assert waiting.policies() == {os.SCHED_BATCH}
