"""Results of samples: marked ones left out, ratios within a round."""

from __future__ import annotations

from typing import Any

from tunneld.bench.results import results


def sample(
    subject: str, number: int, gbit: float, *, marked: bool = False, **case: object
) -> dict[str, Any]:
    return {
        "figure": "tcp",
        "round": number,
        "case": {"subject": subject, **case},
        "values": {"bits_per_s": gbit * 1e9},
        "marks": ["other programs took 50% of the CPU"] if marked else [],
    }


def only(samples: list[dict[str, Any]], subject: str, base: str | None = "plain") -> dict[str, Any]:
    [found] = [r for r in results(samples, base) if r["case"]["subject"] == subject]
    return found


def test_a_value_is_scaled_and_rounded_as_it_is_shown() -> None:
    found = only([sample("esp", 1, 1.23456789)], "esp", base=None)
    assert (found["median"], found["unit"], found["rounds"]) == (1.235, "Gbit/s", 1)
    assert "ratio" not in found


def test_marked_rounds_do_not_count_where_there_are_others() -> None:
    values = [(1, 4.0, False), (2, 1.0, True), (3, 4.2, False)]
    found = only([sample("esp", n, v, marked=m) for n, v, m in values], "esp")
    assert (found["median"], found["low"], found["rounds"]) == (4.1, 4.05, 3)
    assert found["undisturbed"] == 2


def test_where_every_round_is_marked_they_count_and_none_is_called_undisturbed() -> None:
    found = only([sample("esp", n, 2.0, marked=True) for n in (1, 2)], "esp")
    assert (found["median"], found["undisturbed"]) == (2.0, 0)


def test_a_ratio_is_taken_within_a_round_and_not_of_medians() -> None:
    # The machine is twice as fast in the second round: the ratio does not see it.
    plain, esp = [4.0, 8.0, 4.0], [2.0, 4.0, 3.0]
    samples = [sample("plain", n, v) for n, v in enumerate(plain)]
    samples += [sample("esp", n, v) for n, v in enumerate(esp)]
    assert only(samples, "esp")["ratio"] == {
        "to": "plain",
        "median": 0.5,
        "low": 0.5,
        "high": 0.625,
    }
    assert "ratio" not in only(samples, "plain")


def test_a_round_with_a_marked_base_gives_no_ratio_where_another_does() -> None:
    samples = [
        *(sample("plain", 1, 4.0), sample("esp", 1, 2.0)),
        *(sample("plain", 2, 0.5, marked=True), sample("esp", 2, 2.0)),
    ]
    assert only(samples, "esp")["ratio"]["median"] == 0.5


def test_cases_that_differ_in_more_than_the_subject_are_not_compared() -> None:
    samples = [sample("plain", 1, 4.0, streams=1), sample("esp", 1, 2.0, streams=4)]
    assert "ratio" not in only(samples, "esp")
