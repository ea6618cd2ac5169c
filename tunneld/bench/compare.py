"""What changed from one document to another beyond noise. Pure.

Two results differ where their quartiles do not meet. With fewer undisturbed rounds than three on
either side nothing can be said, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tunneld.bench.spread import Spread

FEWEST_ROUNDS: Final = 3

Verdict = Literal["more", "less", "no change beyond noise", "cannot be compared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One result in both documents."""

    title: str
    case: str
    unit: str
    before: Spread
    after: Spread
    verdict: Verdict
    why: str = ""
    """Why it cannot be compared."""

    @property
    def percent(self) -> float:
        """By how much the median changed."""
        if self.before.median == 0:
            return 0.0
        return (self.after.median / self.before.median - 1) * 100


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Returns what both documents measured, in the order of the first."""
    theirs = {_key(result): result for result in after["results"]}
    return [
        _change(result, theirs[_key(result)])
        for result in before["results"]
        if _key(result) in theirs
    ]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns what else differs: the machines, and what only one of them measured."""
    return [*_of_machines(before, after), *_of_cases(before, after)]


def _of_machines(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    names = ("cpu", "cpus", "kernel", "tunneld", "commit", "openssl")
    one, other = before.get("machine", {}), after.get("machine", {})
    for name in names:
        if one.get(name) != other.get(name):
            yield f"{name}: {one.get(name)} before, {other.get(name)} after"


def _of_cases(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    one, other = ({_key(result) for result in document["results"]} for document in (before, after))
    for missing, where in ((one - other, "before"), (other - one, "after")):
        if missing:
            yield f"{len(missing)} results are only in what was measured {where}"


def _key(result: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return result["metric"], tuple(sorted(result["case"].items()))


def _change(before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    one, other = (
        Spread(median=it["median"], low=it["low"], high=it["high"], count=it["undisturbed"])
        for it in (before, after)
    )
    why = ""
    verdict: Verdict = "more" if other.median > one.median else "less"
    few = [
        f"{side.count} of {it['rounds']} rounds {when} undisturbed"
        for side, it, when in ((one, before, "before"), (other, after, "after"))
        if side.count < FEWEST_ROUNDS
    ]
    if few:
        verdict, why = "cannot be compared", "; ".join(few)
    elif one.overlaps(other):
        verdict = "no change beyond noise"
    return Change(
        title=before["title"],
        case=", ".join(before["case"].values()),
        unit=before["unit"],
        before=one,
        after=other,
        verdict=verdict,
        why=why,
    )
