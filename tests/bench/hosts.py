"""Two ends of `tunneld bench` as processes of their own, and a line to read each by."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

TIMEOUT_S = 120.0
TUNNELD = (sys.executable, "-P", "-m", "tunneld")


class Serving:
    """A `tunneld bench serve` that waits."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.wait_for(r"UDP port (\d+)"))
        self.secret = self.wait_for(r"secret: (\S+)")

    def wait_for(self, pattern: str) -> str:
        """Waits for a line; returns the group of the pattern."""
        while True:
            line = self._new.get(timeout=TIMEOUT_S)
            assert line is not None, f"no {pattern!r} in {self.lines}"
            if (found := re.search(pattern, line)) is not None:
                return found[1] if found.groups() else found[0]

    def end(self) -> tuple[int, str]:
        """Waits for its end; returns exit status and all it said."""
        status = self.process.wait(TIMEOUT_S)
        while self._new.get(timeout=TIMEOUT_S) is not None:
            pass
        return status, "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line)
        self._new.put(None)


@contextmanager
def serving(*options: str, inside: Sequence[str] = ()) -> Iterator[Serving]:
    """Has one host wait for a run, perhaps in a namespace."""
    argv = [*inside, *TUNNELD, "bench", "serve", *options]
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield Serving(process)
        finally:
            process.kill()
            process.wait()


def run(
    host: str, port: int, secret: str, *options: str, inside: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs against a host to the end; the secret comes by stdin."""
    argv = [*inside, *TUNNELD, "bench", "run", host, "--port", str(port), *options]
    return subprocess.run(
        argv,
        input=f"{secret}\n",
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment(),
    )


def environment() -> dict[str, str]:
    """The environment without options of a tunneld of this machine."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TUNNELD_")}
