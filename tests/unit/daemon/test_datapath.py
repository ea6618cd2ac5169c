"""How many threads a worker gets."""

from __future__ import annotations

import pytest

from tunneld.config import ThreadsChoice
from tunneld.daemon.datapath import splits


@pytest.mark.parametrize(
    ("choice", "cores", "expected"),
    [
        ("auto", 1, False),
        ("auto", 3, False),
        ("auto", 4, True),
        ("auto", 64, True),
        ("joint", 64, False),
        ("split", 1, True),
    ],
)
def test_directions_are_split_where_told_or_where_cores_are_free(
    choice: ThreadsChoice, cores: int, expected: bool
) -> None:
    assert splits(choice, cores) is expected
