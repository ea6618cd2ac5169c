"""Whole networks in one process and in virtual time: every node keeps a lease of its own."""

from __future__ import annotations

import pytest

from tests.sim.faults import ALL, OUTAGES
from tests.sim.network import simulate

SEEDS = range(1, 9)


@pytest.mark.parametrize("seed", SEEDS)
def test_leases_outlast_outages_and_clocks_that_jump(seed: int) -> None:
    simulate(seed, OUTAGES, rounds=10)


@pytest.mark.parametrize("seed", SEEDS)
def test_leases_outlast_whatever_happens_to_store_and_nodes(seed: int) -> None:
    simulate(seed, ALL, rounds=10)


def test_a_seed_tells_the_same_story_each_time() -> None:
    one, other = (simulate(3, ALL, rounds=5) for _ in range(2))
    assert one.told == other.told
    assert one.server.everything("") == other.server.everything("")
