"""The pages on faults and migration hold what their raw files come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.recovery import tables
from bench.recovery.__main__ import PAGES
from bench.report.document import filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_holds_what_its_raw_file_comes_to(page: Path) -> None:
    text = page.read_text()
    assert "<!-- begin: " in text
    assert filled(text) == text


def test_a_table_shows_the_median_and_the_worst_of_each_event() -> None:
    fault = {"event": "nft flush ruleset", "gap_s": 0.02, "restored_s": 0.1}
    move = {"event": "Move a host", "move": "Move a host", "gap_s": 0.4}
    samples = [
        *({**fault, "lost": lost} for lost in (0, 3, 1)),
        *({**move, "lost": lost} for lost in (40, 60)),
    ]
    assert tables.faults({"samples": samples})[1:] == [
        ["`nft flush ruleset`", "1 (at most 3)", "0.02 (at most 0.02)", "0.10 (at most 0.10)"]
    ]
    assert tables.moves({"samples": samples})[1:] == [
        ["Move a host", "2", "50 (at most 60)", "0.40 (at most 0.40)"]
    ]
