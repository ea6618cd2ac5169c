"""What a run of `tunneld bench` is kept as: one JSON value, complete at any time. Pure.

`samples` are what was measured, `results` and `plots` are made of them; a page shows nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from tunneld.bench.noise import Conditions, kinds, marks
from tunneld.bench.plots import plots
from tunneld.bench.results import results
from tunneld.errors import BenchError

FORMAT: Final = 1


class Document:
    """What one run has seen so far."""

    def __init__(
        self, kind: str, about: Mapping[str, Any], plan: Mapping[str, Any], base: str | None
    ) -> None:
        """`about` is said of the time and the machines, `base` is what ratios are to."""
        self._head = {"format": FORMAT, "kind": kind, **about, "plan": dict(plan), "base": base}
        self._base = base
        self._samples: list[dict[str, Any]] = []
        self.notes: list[str] = []
        """What the reader is told: what was absent, what went wrong."""

    def add(
        self,
        figure: str,
        number: int,
        case: Mapping[str, Any],
        values: Mapping[str, Any],
        conditions: Mapping[str, Conditions],
    ) -> dict[str, Any]:
        """Adds a sample of a round; conditions by the machine. Returns it."""
        named = len(conditions) > 1
        sample = {
            "figure": figure,
            "round": number,
            "case": dict(case),
            "values": dict(values),
            "conditions": {name: asdict(one) for name, one in conditions.items()},
            "marks": [
                mark
                for name, one in conditions.items()
                for mark in marks(one, name if named else "")
            ],
        }
        self._samples.append(sample)
        return sample

    @property
    def is_empty(self) -> bool:
        return not self._samples

    def value(self, *, is_complete: bool) -> dict[str, Any]:
        """Returns all of it as plain data."""
        marked = [sample for sample in self._samples if sample["marks"]]
        found = results(self._samples, self._base)
        return {
            **self._head,
            "complete": is_complete,
            "notes": list(self.notes),
            "noise": {
                "samples": len(self._samples),
                "marked": len(marked),
                "why": kinds(mark for sample in marked for mark in sample["marks"]),
            },
            "results": found,
            "plots": plots(found, self._samples),
            "samples": list(self._samples),
        }


def require_document(value: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - of JSON
    """Returns a document that was read from a file.

    Raises:
        BenchError: it is none that this version reads.
    """
    expected = f"expected what `tunneld bench … --json` prints, format {FORMAT}"
    if not isinstance(value, dict) or not {"format", "results"} <= value.keys():
        msg = f"{name}: no figures of tunneld bench; {expected}"
        raise BenchError(msg)
    if value["format"] != FORMAT:
        msg = f"{name}: format {value['format']!r}; {expected}"
        raise BenchError(msg)
    needed = {"metric", "case", "median", "low", "high", "undisturbed", "rounds", "title", "unit"}
    if not isinstance(value["results"], list) or not all(
        isinstance(result, dict) and needed <= result.keys() for result in value["results"]
    ):
        msg = f"{name}: results that cannot be read; {expected}"
        raise BenchError(msg)
    return value
