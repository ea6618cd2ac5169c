"""One measuring program: alone on the machine, its hosts gone again, its figures in a raw file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lab import environment, raw
from tunneld.bench.local import pair as topology
from tunneld.bench.local.pair import remove_all
from tunneld.errors import LabError
from tunneld.lab.build import sole_use
from tunneld.lab.main_job import Interrupted, interruptible, uninterruptible

Measurement = Callable[[Path], dict[str, Any]]
"""Takes an empty directory, returns a sample."""


@contextmanager
def alone() -> Iterator[None]:
    """Keeps other measurements away, and takes hosts away, of a former one before, ours after.

    Raises:
        LabError: another one is at it.
        Interrupted: somebody ends the program.
    """
    with sole_use(topology.LAB), interruptible():
        try:
            remove_all()
            yield
        finally:
            with uninterruptible():
                remove_all()


def carry_out(kind: str, measurements: Iterable[Measurement]) -> int:
    """Takes the measurements one after another and writes what they saw, `kind` in its name.

    Returns:
        The exit status of the program; what went wrong has been said.
    """
    began = datetime.now(tz=UTC)
    samples: list[dict[str, Any]] = []
    try:
        with alone():
            for measure in measurements:
                with tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
                    samples.append(measure(Path(directory)))
                print(samples[-1], flush=True)
    except Interrupted as interruption:
        return interruption.exit_status
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    about = {"kind": kind, "began": began.isoformat(timespec="seconds")}
    path = raw.place(began, kind)
    raw.write(path, about | {"machine": environment.describe(), "samples": samples})
    print(f"raw figures: {path}")
    return 0
