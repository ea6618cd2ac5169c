"""Medians, ratios and aims, on figures whose outcome is worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report.evaluation import FLANNEL, TCP_1, TUNNELD, VXLAN, Evaluation, spread
from tests.bench.samples import tcp1

RATE = TCP_1[0]


def evaluation(*samples: dict[str, Any]) -> Evaluation:
    return Evaluation({"samples": list(samples)})


def test_quartiles_are_those_of_the_values_themselves() -> None:
    seen = spread([5, 1, 4, 2, 3])
    assert seen is not None
    assert (seen.low, seen.median, seen.high, seen.count) == (2, 3, 4, 5)


def test_nothing_measured_has_no_median() -> None:
    assert spread([]) is None


def test_a_ratio_is_taken_to_the_mean_of_both_neighbours() -> None:
    seen = evaluation(tcp1(VXLAN, 1, 4), tcp1(TUNNELD, 1, 4), tcp1(VXLAN, 1, 6))
    assert seen.ratios("wire", RATE, VXLAN) == [pytest.approx(0.8)]


@given(speeds=st.lists(st.floats(0.1, 10), min_size=1, max_size=12), share=st.floats(0.1, 3))
def test_a_machine_that_changes_its_speed_does_not_change_the_ratio(
    speeds: list[float], share: float
) -> None:
    samples = [
        tcp1(overlay, number, speed * factor)
        for number, speed in enumerate(speeds, start=1)
        for overlay, factor in ((VXLAN, 1.0), (TUNNELD, share), (VXLAN, 1.0))
    ]
    assert evaluation(*samples).ratios("wire", RATE, VXLAN) == pytest.approx([share] * len(speeds))


def test_a_round_without_the_other_gives_no_ratio() -> None:
    seen = evaluation(tcp1(TUNNELD, 1, 5), tcp1(TUNNELD, 2, 6), tcp1(FLANNEL, 2, 1))
    assert seen.ratios("wire", RATE, FLANNEL) == [pytest.approx(6)]


def test_the_kernels_vxlan_has_no_tunnel_cpu() -> None:
    seen = evaluation(tcp1(VXLAN, 1, 5), tcp1(TUNNELD, 1, 5))
    assert seen.spread("wire", TCP_1[1], VXLAN) is None
    assert seen.spread("wire", TCP_1[1], TUNNELD) is not None


@pytest.mark.parametrize(("cost", "is_met"), [(2.2, True), (2.21, False)])
def test_a_cost_at_its_bound_is_met_and_above_it_missed(cost: float, is_met: bool) -> None:
    (aim,) = evaluation(tcp1(TUNNELD, 1, 5, tunnel_cpu_s_per_gb=cost)).aims()
    assert (aim.bound, aim.is_met) == (2.2, is_met)


@pytest.mark.parametrize(("ours", "is_met"), [(4.0, True), (3.9, False)])
def test_a_rate_at_its_bound_is_met_and_below_it_missed(ours: float, is_met: bool) -> None:
    seen = evaluation(tcp1(VXLAN, 1, 5), tcp1(TUNNELD, 1, ours))
    (aim,) = (aim for aim in seen.aims() if aim.name == f"TCP, 1 stream / {VXLAN}")
    assert (aim.bound, aim.is_met) == (0.8, is_met)


def test_retransmits_are_counted_over_the_whole_run() -> None:
    few = tcp1(TUNNELD, 1, 5, retransmits=0, bytes=3 * 10**9)
    many = tcp1(TUNNELD, 2, 5, retransmits=8, bytes=10**9)
    assert evaluation(few, many).retransmits_per_gb("wire", TUNNELD) == pytest.approx(2)


def test_loud_samples_are_told() -> None:
    seen = evaluation(*(tcp1(TUNNELD, 1, 5, foreign_share=share) for share in (0.0, 0.1, 0.2)))
    assert seen.loud() == (1, 0.1)
