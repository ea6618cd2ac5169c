"""Writes lines to stderr from a thread of its own: no reader can make the daemon wait.

Whoever reads may stop: journald on a full disk, a blocking log driver, a paused pager. Then a pipe
takes 64 KiB, and the next write sleeps until it is read. Here lines wait in memory, up to a bound;
those beyond it are lost, counted, and told of once somebody reads again.

Decides nothing about what a line says.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_BYTES: Final = 1 << 20
"""What may wait in memory: some 5,000 lines."""

SLOW_S: Final = 5.0
"""How long a line may wait before that is worth a word."""

GONE_S: Final = 600.0
"""How long a reader that has ended is worth a word: a pipe never gets another one."""

FLUSH_S: Final = 1.0
"""How long the end of the process waits for a reader."""


class Writer:
    """A descriptor, the lines that wait for it, and the thread that writes them."""

    def __init__(
        self,
        fd: int = 2,
        *,
        lost: Callable[[int], str] = lambda count: f"{count} lines were lost\n",
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lost` makes the line that tells how many were not written."""
        self.lost = lost
        self._fd = fd
        self._max_bytes = max_bytes
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._refusal: str | None = None
        self._since_s: float | None = None
        """Since when the line at the front is being written; None: none is."""
        self._gone_at_s: float | None = None
        """Since when the reader is gone; None: there is one."""
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Takes a line, with its end. Never waits."""
        data = line.encode(errors="backslashreplace")
        with self._changed:
            # While lines are missing, none may follow before that is told.
            if self._lost or self._waiting_bytes + len(data) > self._max_bytes:
                self._lost += 1
            else:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def flush(self, patience_s: float = FLUSH_S) -> bool:
        """Waits until all lines are written, at most `patience_s`; says whether they are."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, patience_s)

    def problem(self) -> str | None:
        """Returns why lines are not written, in one line; None while they are."""
        with self._changed:
            refusal, since_s, lost = self._refusal, self._since_s, self._lost
            gone_at_s = self._gone_at_s
            waiting = len(self._waiting)
        if gone_at_s is not None and self._clock() - gone_at_s > GONE_S:
            return None  # nobody is missing it, and nothing but a start anew would help
        if refusal is not None:
            cause = f"the log cannot be written: {refusal}"
        elif since_s is not None and self._clock() - since_s > SLOW_S:
            cause = "nobody reads the log"
        else:
            return None
        return (
            f"{cause}; {waiting} lines wait, {lost} are lost; expected a reader of stderr: see "
            "journald, the log driver or whatever stderr leads to"
        )

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The kernel gives none. What can be written without waiting is, all the same.
            while self._waiting and self._takes_more():
                line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
                self._refusal = self._write(line)
        else:
            self._thread = thread

    def _takes_more(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _is_idle(self) -> bool:
        return not self._waiting and not self._lost

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_idle())
                told = 0
                if not self._waiting:
                    told = self._lost
                    line = self.lost(told).encode(errors="backslashreplace")
                else:
                    line = self._waiting[0]
                self._since_s = self._clock()
            refusal = self._write(line)
            with self._changed:
                self._since_s, self._refusal = None, refusal
                if not told:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(line)
                    self._lost += refusal is not None
                elif refusal is None:
                    self._lost -= told
                self._changed.notify_all()
                if refusal is not None and not self._waiting:
                    # Nothing helps but time: a disk that is full, a reader that has ended.
                    self._changed.wait(FLUSH_S)

    def _write(self, line: bytes) -> str | None:
        """Writes a whole line; returns why that failed."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except OSError as error:
                if error.errno == errno.EPIPE:
                    self._gone_at_s = self._gone_at_s or self._clock()
                if error.errno != errno.EAGAIN:
                    return error.strerror or str(error)
                # Whoever else has this open file made it non-blocking.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
        self._gone_at_s = None
        return None
