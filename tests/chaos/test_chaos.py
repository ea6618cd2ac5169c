"""Whatever happens to hosts and store, traffic comes back and no invariant is broken.

A round lets one or two faults happen, drawn from a seed; see `faults`. `python -m tests.chaos
--rounds 200` tells how long the pairs took to come back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.netns import Rig
from tests.chaos.faults import FAULTS
from tests.chaos.hosts import KINDS, Kind, Site, built_clock
from tests.chaos.judgement import Size, back_after, grown
from tests.chaos.rounds import Chaos, Happening

HOSTS = 4
ROUNDS = {"udp-userspace": 8, "vxlan-userspace": 6, "vxlan-kernel": 6}
SEED = 20261130


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_pair_comes_back_and_no_invariant_is_broken(
    kind: Kind, rig: Rig, tmp_path: Path, figures: list[dict[str, object]]
) -> None:
    site = Site(rig, kind, HOSTS, built_clock(tmp_path))
    try:
        site.start()
        chaos = Chaos(site, SEED + KINDS.index(kind))
        outcomes = chaos.rounds(ROUNDS[str(kind)])
        figures.extend({"kind": str(kind), **outcome.figure()} for outcome in outcomes)
        assert not chaos.growth()
        assert not site.stop()
    finally:
        site.close()


def test_store_from_before_a_move_costs_no_subnet(rig: Rig, tmp_path: Path) -> None:
    """The second host was restarted after its move: it must ask for what it cannot remember."""
    named = {fault.name: fault for fault in FAULTS}
    site = Site(rig, KINDS[0], 2, built_clock(tmp_path))
    try:
        site.start()
        chaos = Chaos(site, SEED)
        for name, number in (
            ("address changed twice", 1),
            ("address changed", 2),
            ("killed", 2),
            ("store restored", 1),
        ):
            chaos.round([Happening(named[name], site.hosts[number - 1], SEED)])
        for host in site.hosts:
            assert "copy of this host" not in host.said()
    finally:
        site.close()


def test_a_pair_is_back_once_its_last_silence_is_over() -> None:
    steady = [10.0 + n / 50 for n in range(100)]
    assert back_after(steady, 10.0, 12.0) == 0.0
    late = [sent_s + 1.5 for sent_s in steady]
    assert back_after(late, 10.0, 13.5) == pytest.approx(1.5)
    relapsed = [*steady[:20], *(sent_s + 3.0 for sent_s in steady)]
    assert back_after(relapsed, 10.0, 15.0) == pytest.approx(3.0)


def test_a_pair_that_is_silent_or_not_steady_yet_is_not_back() -> None:
    steady = [10.0 + n / 50 for n in range(100)]
    assert back_after([], 10.0, 12.0) is None
    assert back_after(steady, 10.0, 13.0) is None
    assert back_after([sent_s for sent_s in steady if sent_s < 10.5], 10.0, 10.5) is None
    assert back_after(steady, 12.0, 14.0) is None


def test_growth_is_told_per_process() -> None:
    sizes = [Size(1, 1000, 20, 5), Size(2, 9000, 20, 5), Size(1, 1500, 40, 6)]
    few = grown(sizes, memory_kib=600, descriptors=20, threads=0)
    assert few == ["process 1: 5 to 6 threads"]
    assert len(grown(sizes, memory_kib=100, descriptors=8, threads=0)) == 3
    assert not grown(sizes, memory_kib=500, descriptors=20, threads=1)
