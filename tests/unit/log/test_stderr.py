"""Lines leave by a thread of their own: whoever reads them, nobody waits."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.wait import wait_until
from tunneld.stderr import GONE_S, SLOW_S, Writer

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe of 4 KiB."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        os.close(fd)


def read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


def read_until(fd: int, end: bytes) -> bytes:
    text = b""

    def complete() -> bool:
        nonlocal text
        text += read(fd)
        return text.endswith(end)

    wait_until(complete, what=f"{end!r} at the end of the log")
    return text


def test_lines_come_in_their_order(pipe: Pipe) -> None:
    writer = Writer(pipe[1])
    for number in range(100):
        writer.put(f"line {number}\n")
    assert read_until(pipe[0], b"line 99\n").decode().splitlines() == [
        f"line {number}" for number in range(100)
    ]
    assert writer.flush()
    assert writer.problem() is None


def test_lines_wait_for_a_reader_up_to_a_bound_and_those_lost_are_told_of(pipe: Pipe) -> None:
    now_s = 0.0
    writer = Writer(
        pipe[1], lost=lambda count: f"lost {count}\n", max_bytes=20_000, clock=lambda: now_s
    )
    line = "x" * 99 + "\n"
    # 4,096 bytes are in the pipe at most, one line is on its way, 200 fit in memory.
    for _ in range(1000):
        writer.put(line)
    assert not writer.flush(patience_s=0.0)
    wait_until(lambda: writer._since_s is not None, what="a line that is on its way")
    assert writer.problem() is None  # for a moment that is nothing
    now_s = SLOW_S + 1
    told = writer.problem()
    assert told is not None
    assert told.startswith("nobody reads the log; ")

    text = ""

    def has_told() -> bool:
        nonlocal text
        text += read(pipe[0]).decode()
        return "lost" in text

    wait_until(has_told, what="the count of lost lines")
    *lines, last = text.splitlines(keepends=True)
    assert set(lines) == {line}
    assert last == f"lost {1000 - len(lines)}\n"
    assert len(lines) >= 200  # what fits in memory
    assert writer.flush()
    assert writer.problem() is None
    writer.put("after\n")
    assert read_until(pipe[0], b"\n") == b"after\n"


def test_reader_that_has_ended_or_a_full_disk_is_named_and_tried_again() -> None:
    with Path("/dev/full").open("w") as full:
        fd = os.dup(full.fileno())
    writer = Writer(fd, lost=lambda count: f"lost {count}\n")
    writer.put("first\n")
    writer.put("second\n")
    told = wait_until(writer.problem, what="a problem")
    assert told is not None
    assert told.startswith("the log cannot be written: No space left on device; ")
    reading, writing = os.pipe()
    os.dup2(writing, fd)  # there is room again
    assert read_until(reading, b"\n") == b"lost 2\n"
    wait_until(lambda: writer.problem() is None, what="a log that is written")
    for opened in (reading, writing):
        os.close(opened)


def test_reader_that_is_gone_for_good_is_named_for_a_while_and_may_come_back() -> None:
    now_s = 0.0
    reading, writing = os.pipe()
    os.close(reading)
    writer = Writer(writing, clock=lambda: now_s)
    writer.put("first\n")
    told = wait_until(writer.problem, what="a problem")
    assert told is not None
    assert told.startswith("the log cannot be written: Broken pipe; ")
    now_s = GONE_S
    assert writer.problem() is not None
    now_s += 1.0
    assert writer.problem() is None
    # As by a debugger, or /proc.
    reading, again = os.pipe()
    os.dup2(again, writing)
    assert b"lost" in read_until(reading, b"\n")
    os.close(reading)
    writer.put("second\n")
    assert wait_until(writer.problem, what="a problem of its own")
    for opened in (writing, again):
        os.close(opened)


def test_non_blocking_stderr_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe[1], False)
    writer = Writer(pipe[1])
    text = "".join(f"{number:099}\n" for number in range(200))
    for line in text.splitlines(keepends=True):
        writer.put(line)
    assert read_until(pipe[0], b"199\n").decode() == text


def test_lines_are_written_as_far_as_possible_where_there_is_no_thread(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(pipe[1])

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as lacking:
        lacking.setattr(threading.Thread, "start", no_thread)
        writer.put("first\n")
        assert read(pipe[0]) == b"first\n"
        # Nobody is made to wait for a reader: what a full pipe takes no more stays in memory.
        for _ in range(10):
            writer.put("x" * 999 + "\n")
    writer.put("last\n")
    assert read_until(pipe[0], b"last\n") == (b"x" * 999 + b"\n") * 10 + b"last\n"
