"""The page: all of it is in the JSON next to it, and nothing of it is anywhere else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from tests.unit.bench.documents import document
from tunneld.bench.page import page
from tunneld.bench.plots import log_ticks, ticks

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Text(HTMLParser):
    """What a reader sees, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self._is_hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._is_hidden = tag in ("style", "script")
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.fetched.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_hidden = False

    def handle_data(self, data: str) -> None:
        if not self._is_hidden:
            self.seen.append(data)


def read(html: str) -> Text:
    found = Text()
    found.feed(html)
    return found


@pytest.mark.parametrize("marked", [False, True])
def test_every_number_of_the_page_is_in_its_json(marked: bool) -> None:
    value = document(marked=marked)
    known = {float(number) for number in NUMBER.findall(json.dumps(value))}
    shown = NUMBER.findall(" ".join(read(page(value, "bench.json")).seen))
    assert len(shown) > 100
    assert not [number for number in shown if float(number) not in known]


def test_the_page_fetches_nothing_and_runs_nothing() -> None:
    found = read(page(document(), "bench.json"))
    assert [place for place in found.fetched if place != "data:,"] == []
    assert "script" not in found.tags
    assert "url(" not in page(document(), "bench.json")
    assert "@import" not in page(document(), "bench.json")


def test_every_plot_names_the_raw_figures_it_is_made_of() -> None:
    value = document()
    html = page(value, "bench.json")
    assert [plot["figure"] for plot in value["plots"]] == ["tcp", "tcp", "loss", "idle"] or (
        len(value["plots"]) >= 4
    )
    figures = re.findall(r"<small>samples of figure “(\w+)” in bench\.json</small>", html)
    assert figures == [plot["figure"] for plot in value["plots"]]
    assert html.count("<svg") == len(value["plots"])


def test_what_others_name_cannot_become_markup() -> None:
    html = page(document(), "bench.json")
    assert "A &lt;b&gt;" in html
    assert "&lt;not installed&gt;" in html
    assert "esp &amp; co" in html


def test_a_page_of_a_disturbed_or_unfinished_run_says_so() -> None:
    assert "are marked" in page(document(marked=True), "bench.json")
    assert "ended early" in page(document(is_complete=False), "bench.json")
    quiet = page(document(), "bench.json")
    assert "are marked" not in quiet
    assert "ended early" not in quiet


@pytest.mark.parametrize(
    ("top", "expected"),
    [(9.3, [0, 2, 4, 6, 8, 10]), (0.04, [0, 0.01, 0.02, 0.03, 0.04]), (0, [0, 1])],
)
def test_ticks_are_round_and_reach_the_top(top: float, expected: list[float]) -> None:
    assert ticks(top) == expected


def test_ticks_of_a_logarithm_reach_from_below_to_above() -> None:
    assert log_ticks(30, 900) == [20, 50, 100, 200, 500, 1000]
    assert log_ticks(50, 50) == [50, 100]
