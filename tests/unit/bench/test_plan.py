"""The order of steps: every case in every round, neighbours compared, turns reversed."""

from __future__ import annotations

from tunneld.bench.plan import Scope, steps

SCOPE = Scope(rounds=2, figures=("tcp", "udp", "loss"), sizes=(64, "IMIX"), streams=(1,))


def test_subjects_of_a_case_follow_each_other_and_the_next_round_turns_them_round() -> None:
    found = [
        (step.round, step.figure, step.case.get("size"), step.subject)
        for step in steps(SCOPE, ("plain", "esp"), {"underlay": "wire"})
        if step.figure != "loss"
    ]
    assert found == [
        (1, "tcp", None, "plain"),
        (1, "tcp", None, "esp"),
        (1, "udp", 64, "plain"),
        (1, "udp", 64, "esp"),
        (1, "udp", "IMIX", "plain"),
        (1, "udp", "IMIX", "esp"),
        (2, "tcp", None, "esp"),
        (2, "tcp", None, "plain"),
        (2, "udp", 64, "esp"),
        (2, "udp", 64, "plain"),
        (2, "udp", "IMIX", "esp"),
        (2, "udp", "IMIX", "plain"),
    ]


def test_the_search_is_in_the_first_round_only_and_every_case_says_where() -> None:
    found = list(steps(SCOPE, ("plain",), {"underlay": "wire"}))
    assert [step.round for step in found if step.figure == "loss"] == [1]
    assert all(step.case["underlay"] == "wire" and step.seconds > 0 for step in found)
