"""What marks a sample: the thresholds, from either side."""

from __future__ import annotations

import pytest

from tunneld.bench.noise import Conditions, kinds, marks


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (Conditions(), []),
        (Conditions(foreign_share=0.05, steal_share=0.02, stall_s=0.15), []),
        (Conditions(foreign_share=0.5), ["other programs took 50% of the CPU"]),
        (Conditions(steal_share=0.1), ["the hypervisor took 10% of the CPU"]),
        (Conditions(stall_s=1.5), ["the machine stood still for 1.50 s"]),
        (Conditions(mhz_low=2000, mhz_high=3000), ["the clock changed from 2000 to 3000 MHz"]),
        (Conditions(mhz_low=2900, mhz_high=3000), []),
        (Conditions(mhz_low=None, mhz_high=None), []),
    ],
)
def test_a_disturbance_is_told_with_its_size(conditions: Conditions, expected: list[str]) -> None:
    assert marks(conditions) == expected


def test_of_two_machines_the_disturbed_one_is_named() -> None:
    assert marks(Conditions(stall_s=2), "far") == ["the machine stood still for 2.00 s on far"]


def test_a_summary_names_each_kind_once() -> None:
    seen = [*marks(Conditions(foreign_share=0.5)), *marks(Conditions(foreign_share=0.9, stall_s=1))]
    assert kinds(seen) == ["other programs took CPU", "the machine stood still"]
