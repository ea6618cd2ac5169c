"""The order in which things are measured, so that a machine that drifts drifts for all of them.

A round of a figure is: kernel vxlan, tunneld, kernel vxlan, flannel udp. tunneld's value is judged
by the mean of its two neighbours, seconds away on either side; flannel's stands in the same round.

Where its memory lies makes a process up to ten per cent faster or slower than the next one. With
`fresh` every turn of every round has hosts and processes of its own, so that a median is one over
processes too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from bench.lab import traffic
from bench.lab.catalogue import OVERLAYS
from bench.lab.overlays import FlannelUdp, TunneldHostGwIPv6, TunneldIPv6, TunneldVxlanIPv6
from tunneld.bench import cpu
from tunneld.bench.local.ours import Tunneld, TunneldHostGw, TunneldVxlan
from tunneld.bench.local.overlay import KernelVxlan, Overlay
from tunneld.bench.local.pair import (
    ETHERNET_BYTES,
    UNDERLAY_MTU_BYTES,
    Flavour,
    Frames,
    Pair,
    remove_all,
    watched_frames,
)
from tunneld.errors import LabError

Figure = Literal["tcp1", "tcp4", "flood", "round trip"]
FIGURES: Final[tuple[Figure, ...]] = get_args(Figure)
TURNS: Final = (KernelVxlan.name, Tunneld.name, KernelVxlan.name, FlannelUdp.name)
BACKEND_TURNS: Final = (
    *(Tunneld.name, TunneldVxlan.name, Tunneld.name, TunneldIPv6.name),
    *(Tunneld.name, TunneldVxlanIPv6.name, Tunneld.name),
    *(TunneldHostGw.name, TunneldHostGwIPv6.name),
)
"""tunneld beside itself: what another format or family costs. Plain routes tell what of it is the
kernel's own."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure and for how long."""

    rounds: int
    flavours: Mapping[Flavour, Sequence[Figure]]
    """With the figures that are measured in each."""
    stream_s: int = 3
    """Whole seconds: iperf3 takes no others."""
    flood_s: float = 1.5
    round_trips: int = 500
    quiet_wait_s: float = 0.0
    """How long a figure may wait for other programs to calm down before it is measured."""
    conntrack: bool = False
    """Whether the kernel tracks connections on every host, as on a Docker host."""
    turns: Sequence[str] = TURNS
    fresh: bool = False
    """Whether every turn of every round has hosts of its own, made for it. Flavours take turns
    then too."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further options of an overlay's daemons, by its name."""


def measure(figure: Figure, overlay: Overlay, plan: Plan) -> traffic.Figures:
    """Takes one value of a figure."""
    match figure:
        case "tcp1":
            return traffic.tcp(overlay, streams=1, duration_s=plan.stream_s)
        case "tcp4":
            return traffic.tcp(overlay, streams=4, duration_s=plan.stream_s)
        case "flood":
            return traffic.flood(overlay, duration_s=plan.flood_s)
        case "round trip":
            return traffic.round_trips(overlay, count=plan.round_trips)


class Bench:
    """Runs a plan; what it saw so far is in `samples` and `flavours` at any time."""

    def __init__(self, plan: Plan, directory: Path, say: Say) -> None:
        self.plan = plan
        self.directory = directory
        self.say = say
        self.samples: list[dict[str, Any]] = []
        self.flavours: dict[str, dict[str, Any]] = {}
        """What was built for each flavour: offloads of the underlay, overlays, longest frames."""

    def run(self) -> Iterator[None]:
        """Runs the plan; yields after each round, so that the caller can keep what there is.

        The hosts are there meanwhile, and idle.

        Raises:
            LabError: a step failed; the hosts are gone again.
        """
        traffic.load_program()
        for flavour, numbers in self._spans():
            overlays: list[Overlay] = []
            try:
                self._build(flavour, overlays)
                for number in numbers:
                    self._round(flavour, overlays, number)
                    yield
            finally:
                for overlay in dict.fromkeys(overlays):
                    overlay.stop()
                remove_all()
                _remove(self.directory / flavour)

    def _spans(self) -> Iterator[tuple[Flavour, Sequence[int]]]:
        """Yields the rounds of a flavour that one set of hosts is for."""
        rounds = range(1, self.plan.rounds + 1)
        if self.plan.fresh:
            yield from ((flavour, [number]) for number in rounds for flavour in self.plan.flavours)
        else:
            yield from ((flavour, rounds) for flavour in self.plan.flavours)

    def _build(self, flavour: Flavour, overlays: list[Overlay]) -> None:
        """Builds an overlay for each turn; it is in `overlays` before anything of it is there."""
        is_first = flavour not in self.flavours
        if is_first:
            self.say(f"{flavour}: building {', '.join(dict.fromkeys(self.plan.turns))}")
        seen = self.flavours.setdefault(flavour, {"overlays": {}})
        for turn, name in enumerate(self.plan.turns):
            place = self.plan.turns.index(name)
            if place < turn and not self.plan.fresh:
                overlays.append(overlays[place])
                continue
            options = self.plan.options.get(name, ())
            number = turn if self.plan.fresh else None
            overlay = OVERLAYS[name](self.directory / flavour, options, number)
            overlays.append(overlay)
            overlay.pair.build(flavour, conntrack=self.plan.conntrack)
            overlay.start()
            overlay.wait_connected()
            if is_first and place == turn:
                frames = _frames(overlay)
                _require_wire(flavour, overlay.pair, frames)
                seen["overlays"][name] = overlay.about() | {"frames": asdict(frames)}
                seen["underlay_offloads"] = overlay.pair.offloads()

    def _round(self, flavour: Flavour, overlays: Sequence[Overlay], number: int) -> None:
        for figure in self.plan.flavours[flavour]:
            if not cpu.became_quiet(self.plan.quiet_wait_s):
                self.say(f"{flavour} {number} {figure}: other programs keep the machine busy")
            shown = []
            for turn, overlay in enumerate(overlays):
                values = measure(figure, overlay, self.plan)
                where = {"flavour": flavour, "figure": figure, "round": number, "turn": turn}
                self.samples.append({**where, "overlay": overlay.name, **values})
                shown.append(f"{overlay.name} {_brief(figure, values)}")
            self.say(f"{flavour} {number}/{self.plan.rounds} {figure}: {', '.join(shown)}")


def _remove(directory: Path) -> None:
    """Removes what is left of hosts that are gone: the next ones have their names."""
    if directory.exists():
        shutil.rmtree(directory)


def _frames(overlay: Overlay) -> Frames:
    """Returns what the receiving host's underlay saw while TCP ran."""
    with watched_frames(overlay.pair.b) as found:
        traffic.tcp(overlay, streams=1, duration_s=1)
    return found[0]


def _require_wire(flavour: Flavour, pair: Pair, frames: Frames) -> None:
    """Proves that the underlay is the wire it claims to be.

    Behind GRO the receiver's capture shows aggregates, so that nothing can be said there.
    """
    if flavour == "wire" and not 0 < frames.longest_bytes <= UNDERLAY_MTU_BYTES + ETHERNET_BYTES:
        msg = f"bench: {pair.name}: a frame of {frames.longest_bytes} bytes; the wire takes "
        raise LabError(f"{msg}{UNDERLAY_MTU_BYTES + ETHERNET_BYTES}")


def _brief(figure: Figure, values: traffic.Figures) -> str:
    match figure:
        case "tcp1" | "tcp4":
            cost = values["tunnel_cpu_s_per_gb"]
            return f"{values['bits_per_s'] / 1e9:.2f} Gbit/s ({cost:.2f} s/GB)"
        case "flood":
            return f"{values['delivered_per_s'] / 1e3:.0f} k/s"
        case "round trip":
            trips = sorted(values["round_trips_us"])
            return f"{trips[len(trips) // 2]:.0f} us" if trips else "no answer"
