"""One run: keeps what is measured after every step, and says what came of it in the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunneld.bench.document import Document
from tunneld.bench.keep import PAGE_NAME, Keeper, as_json
from tunneld.bench.table import as_text
from tunneld.errors import TunneldError
from tunneld.lab.main_job import Interrupted, interruptible, uninterruptible


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a run is shown."""

    is_json: bool = False
    report: Path | None = None


class Session:
    """What a measurement writes to."""

    def __init__(self, document: Document, keeper: Keeper) -> None:
        self.document = document
        self._keeper = keeper

    def checkpoint(self) -> None:
        """Keeps what there is.

        Raises:
            BenchError: it cannot be written.
        """
        if not self.document.is_empty:
            self._keeper.keep(self.document.value(is_complete=False))


def carry_out(document: Document, output: Output, measure: Callable[[Session], None]) -> int:
    """Measures, keeps and shows; returns the exit status.

    What was measured before a signal or an error is kept and shown all the same.

    Raises:
        BenchError: the report's directory cannot be used, or a measurement failed.
    """
    keeper = Keeper(output.report)
    failure: BaseException | None = None
    with interruptible():
        try:
            measure(Session(document, keeper))
        except (Interrupted, TunneldError) as error:
            failure = error
    with uninterruptible():
        _show(document, keeper, output, failure)
    match failure:
        case None:
            return 0
        case Interrupted():
            print("tunneld: bench: interrupted", file=sys.stderr)
            return failure.exit_status
        case _:
            raise failure


def _show(
    document: Document, keeper: Keeper, output: Output, failure: BaseException | None
) -> None:
    if document.is_empty:
        return
    value = document.value(is_complete=failure is None)
    # First to the terminal: a full disk must not take that away too.
    sys.stdout.write(as_json(value) if output.is_json else as_text(value) + "\n")
    sys.stdout.flush()
    try:
        keeper.keep(value)
    except TunneldError:
        if failure is None:
            raise
    else:
        if output.report is not None:
            print(f"page: {output.report / PAGE_NAME}", file=sys.stderr)


def about_now(machine: dict[str, Any]) -> dict[str, Any]:
    """Returns the head of a document: when, and on what."""
    return {"began": datetime.now(tz=UTC).isoformat(timespec="seconds"), "machine": machine}
