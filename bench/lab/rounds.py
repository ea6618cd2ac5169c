"""The order in which things are measured, so that a machine that drifts drifts for all of them.

A round of a figure is: kernel vxlan, tunneld, kernel vxlan, flannel udp. tunneld's value is judged
by the mean of its two neighbours, seconds away on either side; flannel's stands in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from bench.lab import cpu, traffic
from bench.lab.overlays import (
    OVERLAYS,
    FlannelUdp,
    KernelVxlan,
    Overlay,
    Tunneld,
    TunneldHostGw,
    TunneldHostGwIPv6,
    TunneldIPv6,
    TunneldVxlan,
    TunneldVxlanIPv6,
)
from bench.lab.topology import (
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

        Raises:
            LabError: a step failed; the hosts are gone again.
        """
        traffic.load_program()
        for flavour, figures in self.plan.flavours.items():
            overlays: dict[str, Overlay] = {}
            try:
                self._build(flavour, overlays)
                for number in range(1, self.plan.rounds + 1):
                    self._round(flavour, figures, overlays, number)
                    yield
            finally:
                for overlay in overlays.values():
                    overlay.stop()
                remove_all()

    def _build(self, flavour: Flavour, overlays: dict[str, Overlay]) -> None:
        """Builds all overlays; each is in `overlays` before anything of it is there."""
        self.say(f"{flavour}: building {', '.join(dict.fromkeys(self.plan.turns))}")
        about: dict[str, Any] = {"overlays": {}}
        self.flavours[flavour] = about
        for name in dict.fromkeys(self.plan.turns):
            directory = self.directory / flavour
            overlay = OVERLAYS[name](directory, self.plan.options.get(name, ()))
            overlays[name] = overlay
            overlay.pair.build(flavour, conntrack=self.plan.conntrack)
            overlay.start()
            overlay.wait_connected()
            frames = _frames(overlay)
            _require_wire(flavour, overlay.pair, frames)
            about["overlays"][name] = overlay.about() | {"frames": asdict(frames)}
            about["underlay_offloads"] = overlay.pair.offloads()

    def _round(
        self,
        flavour: Flavour,
        figures: Sequence[Figure],
        overlays: Mapping[str, Overlay],
        number: int,
    ) -> None:
        for figure in figures:
            if not cpu.became_quiet(self.plan.quiet_wait_s):
                self.say(f"{flavour} {number} {figure}: other programs keep the machine busy")
            shown = []
            for turn, name in enumerate(self.plan.turns):
                values = measure(figure, overlays[name], self.plan)
                where = {"flavour": flavour, "figure": figure, "round": number, "turn": turn}
                self.samples.append({**where, "overlay": name, **values})
                shown.append(f"{name} {_brief(figure, values)}")
            self.say(f"{flavour} {number}/{self.plan.rounds} {figure}: {', '.join(shown)}")


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
