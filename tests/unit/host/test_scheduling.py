"""What the kernel tells of threads, and the policies it lets them have; on threads of this test."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from testbed.wait import wait_until
from tunneld.errors import HostError
from tunneld.host.scheduling import (
    RunTimes,
    parse_run_times,
    policy_of,
    run_times,
    set_policy,
)

FILE = Path("/proc/self/task/7/schedstat")


@pytest.fixture
def thread_id() -> Iterator[int]:
    """A thread that waits."""
    is_over = threading.Event()
    thread = threading.Thread(target=is_over.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    is_over.set()
    thread.join()


def ended_thread_id() -> int:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    path = Path(f"/proc/self/task/{thread.native_id}")
    wait_until(lambda: not path.exists(), what="the end of a thread")
    return thread.native_id


def test_times_are_the_three_numbers_of_the_kernel_s_documentation() -> None:
    assert parse_run_times("4805512 60683 19\n", FILE) == RunTimes(
        ran_ns=4805512, waited_ns=60683, slices=19
    )


@pytest.mark.parametrize(
    "text", ["", "\n", "1 2\n", "1 2 x\n", "-1 2 3\n", "a 1 2 3", "1,2,3\n", "1 2 ³\n", "1 2 3e9\n"]
)
def test_what_has_another_form_is_named(text: str) -> None:
    with pytest.raises(HostError, match="expected three numbers") as caught:
        parse_run_times(text, FILE)
    assert repr(text) in str(caught.value)
    assert "--scheduling=normal" in str(caught.value)


@given(st.text(max_size=200))
def test_any_other_text_is_a_host_error_of_one_line(text: str) -> None:
    assume(re.match("[0-9]+ [0-9]+ [0-9]+", text) is None)
    with pytest.raises(HostError) as caught:
        parse_run_times(text, FILE)
    assert "\n" not in str(caught.value)


def test_kernel_that_counts_nothing_is_named_with_what_helps() -> None:
    with pytest.raises(HostError, match=r"'0 0 0', so .* kernel\.task_delayacct=1"):
        parse_run_times("0 0 0\n", FILE)


def test_running_thread_has_times_that_rise(thread_id: int) -> None:
    before = run_times(threading.get_native_id())
    assert before is not None
    for _ in range(3):
        sum(range(100_000))
        os.sched_yield()
    after = run_times(threading.get_native_id())
    assert after is not None
    assert after.since(before).ran_ns > 0
    waiting = run_times(thread_id)
    assert waiting is not None
    assert waiting.slices > 0


def test_thread_that_has_ended_has_none_and_no_policy() -> None:
    thread_id = ended_thread_id()
    assert run_times(thread_id) is None
    assert policy_of(thread_id) is None
    set_policy(thread_id, "batch")


def test_kernel_without_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    says = f"cannot read {tmp_path}/7/schedstat: No such file or directory; expected"
    with pytest.raises(HostError, match=re.escape(says)):
        run_times(7, tmp_path)


def test_policies_are_the_kernel_s_and_of_that_thread_alone(thread_id: int) -> None:
    assert policy_of(thread_id) == "normal"
    set_policy(thread_id, "batch")
    assert policy_of(thread_id) == "batch"
    assert os.sched_getscheduler(thread_id) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    set_policy(thread_id, "normal")
    assert os.sched_getscheduler(thread_id) == os.SCHED_OTHER


def test_policy_that_is_neither_is_told_apart(thread_id: int) -> None:
    os.sched_setscheduler(thread_id, os.SCHED_IDLE, os.sched_param(0))
    assert policy_of(thread_id) == "other"
