"""A program started by a test, with its output in a file, ended by the test and by nobody else."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.wait import PATIENCE, wait_until


class Process:
    """A running program; stdout and stderr go to one log file."""

    def __init__(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._popen.poll()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_output(self, text: str, timeout_s: float = 20.0) -> None:
        """Waits until the log holds `text`; fails at once when the program ends without it."""

        def said() -> bool:
            if text in self.output():
                return True
            if self.exit_status is not None and text not in self.output():
                msg = f"{self.argv} ended with {self.exit_status}:\n{self.output()[-4000:]}"
                raise AssertionError(msg)
            return False

        try:
            wait_until(said, timeout_s, f"{text!r} in the output of {self.argv[0]}")
        except TimeoutError as error:
            error.add_note(self.output()[-4000:])
            raise

    def wait(self, timeout_s: float = 20.0) -> int:
        return self._popen.wait(timeout_s * PATIENCE)

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, then SIGKILL after `timeout_s`; returns the exit status."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                return self._popen.wait(timeout_s * PATIENCE)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait(timeout_s * PATIENCE)

    def pause(self) -> None:
        """SIGSTOP; returns once every thread stands still, which a busy one does a bit later."""
        self._popen.send_signal(signal.SIGSTOP)
        wait_until(self._stands_still, 10.0, f"{self.argv[0]} standing still")

    def _stands_still(self) -> bool:
        return self._states() == {"T"}

    def is_asleep(self) -> bool:
        """Says whether all its threads wait for something; what has come is read by then."""
        return self._states() <= {"S"}

    def _states(self) -> set[str]:
        return set(thread_states(self.pid).values())

    def resume(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGKILL)
        self._popen.wait(10 * PATIENCE)


def thread_states(pid: int, prefix: str = "") -> dict[int, str]:
    """Returns the state of each thread of a process whose name begins with `prefix`, as a letter.

    Source: proc(5), `PID (NAME) STATE ...`.

    Raises:
        FileNotFoundError: there is no such process.
    """
    states = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            head, _, rest = (task / "stat").read_text().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        if head.partition(" (")[2].startswith(prefix):
            states[int(task.name)] = rest[0]
    return states


def thread_ids(pid: int, prefix: str = "") -> list[int]:
    """Returns the threads of a process whose names begin with `prefix`; the main one is first."""
    return sorted(thread_states(pid, prefix))
