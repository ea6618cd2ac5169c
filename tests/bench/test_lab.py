"""The bench measures what it says, on real hosts, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.rounds import FIGURES, Bench, Plan
from tunneld.bench.local import pair as topology
from tunneld.bench.local.ours import Tunneld
from tunneld.bench.local.overlay import KernelVxlan
from tunneld.errors import LabError
from tunneld.lab import namespaces

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first builds the load


def hosts() -> list[str]:
    return namespaces.existing(topology.PREFIX)


@pytest.mark.usefixtures("prefix")
def test_a_round_takes_every_figure_of_every_turn_and_leaves_no_host(tmp_path: Path) -> None:
    turns = (KernelVxlan.name, Tunneld.name, KernelVxlan.name)
    plan = Plan(
        rounds=1,
        flavours={"wire": FIGURES},
        turns=turns,
        stream_s=1,
        flood_s=0.2,
        round_trips=5,
    )
    bench = Bench(plan, tmp_path, lambda _line: None)
    for _ in bench.run():
        assert hosts()
    assert not hosts()

    taken = [(sample["figure"], sample["overlay"]) for sample in bench.samples]
    assert taken == [(figure, turn) for figure in FIGURES for turn in turns]
    for sample in bench.samples:
        if sample["figure"].startswith("tcp"):
            assert sample["bytes"] > 0
            assert (sample["tunnel_cpu_s"] > 0) == (sample["overlay"] == Tunneld.name)
        elif sample["figure"] == "flood":
            assert 0 < sample["received"] <= sample["sent"]
        else:
            assert (sample["lost"], len(sample["round_trips_us"])) == (0, 5)
    frames = {
        name: about["frames"]["longest_bytes"]
        for name, about in bench.flavours["wire"]["overlays"].items()
    }
    assert frames == {KernelVxlan.name: 1514, Tunneld.name: 1514}


@pytest.mark.usefixtures("prefix")
def test_a_wire_that_lets_super_packets_pass_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "_set_flavour", lambda _host, _flavour: None)
    plan = Plan(rounds=1, flavours={"wire": ["tcp1"]}, turns=(KernelVxlan.name,))
    with pytest.raises(LabError, match="the wire takes 1514"):
        list(Bench(plan, tmp_path, lambda _line: None).run())
    assert not hosts()
