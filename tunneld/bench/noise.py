"""Whether the machine was left alone while something was measured. Pure.

What other programs took is not what the measured thing cost. A sample of such a time is marked,
kept, and left out of medians where the other rounds have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

FOREIGN_SHARE: Final = 0.05
"""Of all processors."""
STEAL_SHARE: Final = 0.02
STALL_S: Final = 0.15
"""A thread that wanted to wake up and did not for so long: the machine stood still, or was full."""
FREQUENCY_SHARE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What else happened on a machine while something was measured."""

    foreign_share: float = 0.0
    """What programs that are not ours took of all processors, 0 to 1."""
    steal_share: float = 0.0
    """What the hypervisor took."""
    stall_s: float = 0.0
    """The longest time in which a thread of ours was not woken."""
    mhz_low: float | None = None
    """Lowest and highest frequency that the kernel told; None: it tells none."""
    mhz_high: float | None = None


def marks(conditions: Conditions, where: str = "") -> list[str]:
    """Returns what disturbed a sample, in words; nothing where it was left alone."""
    found = []
    at = f" on {where}" if where else ""
    if conditions.foreign_share > FOREIGN_SHARE:
        found.append(f"other programs took {conditions.foreign_share:.0%} of the CPU{at}")
    if conditions.steal_share > STEAL_SHARE:
        found.append(f"the hypervisor took {conditions.steal_share:.0%} of the CPU{at}")
    if conditions.stall_s > STALL_S:
        found.append(f"the machine stood still for {conditions.stall_s:.2f} s{at}")
    low, high = conditions.mhz_low, conditions.mhz_high
    if low and high and (high - low) / high > FREQUENCY_SHARE:
        found.append(f"the clock changed from {low:.0f} to {high:.0f} MHz{at}")
    return found


def kinds(all_marks: Iterable[str]) -> list[str]:
    """Returns the kinds of marks without their figures, each once, for a summary."""
    words = {
        "other programs": "other programs took CPU",
        "the hypervisor": "the hypervisor took CPU",
        "the machine": "the machine stood still",
        "the clock": "the processor's clock changed",
    }
    seen = list(all_marks)
    return [text for start, text in words.items() if any(m.startswith(start) for m in seen)]
