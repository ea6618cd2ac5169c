"""`tunneld lab run`: builds a lab, shows it, sends traffic, judges it and takes it down."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from tunneld.control.status import render_text
from tunneld.errors import UsageError
from tunneld.lab import checks, namespaces, traffic
from tunneld.lab.build import Lab, require_rights, sole_use, take_down
from tunneld.lab.daemons import status_of
from tunneld.lab.drawing import draw
from tunneld.lab.topology import Topology
from tunneld.lab.wire import foreign_expression, wire_of

THROUGHPUT_S = 3
_INTERRUPTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """SIGTERM or SIGINT arrived; carries the number. No `Exception`, so that nothing eats it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


def run_main_job(topology: Topology) -> int:
    """Runs the main job on a fresh lab; returns the exit status.

    What an earlier, killed run left under the same name is removed first.

    Raises:
        CapabilityError: this process may not make network namespaces.
        Interrupted: by a signal; the lab is down again.
        LabError: a step or a check failed; the lab is down again.
        UsageError: fewer than two hosts.
    """
    if topology.size < 2:
        msg = f"hosts {topology.size}: the main job needs at least 2, traffic has to go somewhere"
        raise UsageError(msg)
    require_rights()
    with sole_use(topology.name), interruptible():
        take_down(topology.name)
        beside = None
        if topology.is_encrypted:
            say("the same without encryption first")
            with _lab(replace(topology, encryption="off")) as lab:
                beside = _in_plain(lab)
        with _lab(topology) as lab:
            pids = _work(lab, beside)
        say(checks.check_nothing_left(topology, pids))
    say("done: the main job passed")
    return 0


@contextmanager
def _lab(topology: Topology) -> Iterator[Lab]:
    """A lab that is down again afterwards, whatever happened."""
    lab = Lab(topology)
    try:
        yield lab
    finally:
        with uninterruptible():
            lab.take_down()


@dataclass(frozen=True, slots=True)
class _Beside:
    """What a lab without encryption came to."""

    rates: tuple[float, ...]
    """Bit/s of one TCP stream, in each family."""
    marked: int
    """How many packets on the underlay showed what pings carry."""


def _in_plain(lab: Lab) -> _Beside:
    topology = lab.topology
    lab.build(say)
    overlay = topology.directory / "overlay.pcap"
    with traffic.capture(topology, overlay, wire_of(topology).expression):
        traffic.ping_all(topology, lab.views)
    beside = _Beside(tuple(_throughputs(lab)), traffic.count_marked(overlay))
    lab.stop_daemons()
    return beside


def _throughputs(lab: Lab) -> Iterator[float]:
    """Gives bit/s of one TCP stream from the first container to the last one, in each family."""
    first, last = lab.topology.hosts[0], lab.topology.hosts[-1]
    for target in lab.views[-1].containers:
        yield traffic.throughput_bits_per_s(
            first.container_namespace,
            last.container_namespace,
            target,
            duration_s=THROUGHPUT_S,
            log=lab.topology.directory / "iperf3.log",
        )


def _work(lab: Lab, beside: _Beside | None) -> list[int]:
    topology = lab.topology
    lab.build(say)
    print(f"\n{draw(topology, lab.views)}\n")

    overlay, foreign = topology.directory / "overlay.pcap", topology.directory / "foreign.pcap"
    first, last = topology.hosts[0], topology.hosts[-1]
    with traffic.capture(topology, foreign, foreign_expression(topology)):
        with traffic.capture(topology, overlay, wire_of(topology).expression):
            say("pinging from every container to every other")
            for line in traffic.ping_all(topology, lab.views):
                print(f"  {line}")
        for number, rate in enumerate(_throughputs(lab)):
            family = lab.views[-1].containers[number].version
            say(
                f"throughput {first.label}-c -> {last.label}-c: {rate / 1e6:,.0f} Mbit/s "
                f"(one TCP stream, IPv{family}, {THROUGHPUT_S} s)"
            )
            if beside is not None:
                plain = beside.rates[number]
                say(f"  in plain {plain / 1e6:,.0f} Mbit/s: {rate / plain:.0%} of it")
    statuses = {host: status_of(host) for host in topology.hosts}
    say(f"tunneld status on {first.label}")
    print("".join(f"  {line}\n" for line in render_text(statuses[first]).splitlines()))

    say(checks.check_counters(topology, statuses))
    say(checks.check_underlay(topology, lab.views, overlay, foreign))
    if beside is not None:
        say(checks.check_keys(topology, statuses))
        say(checks.check_plaintext(beside.marked, overlay, foreign))
    pids = [pid for name in namespaces.existing(topology.prefix) for pid in namespaces.pids(name)]
    say("stopping the daemons")
    lab.stop_daemons()
    for host in topology.hosts:
        checks.check_host_is_clean(topology, host)
    return pids


def say(line: str) -> None:
    """Prints what the lab does, as it does it."""
    print(f"lab: {line}", flush=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM, SIGINT and SIGHUP into `Interrupted` while the block runs."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in _INTERRUPTS:  # a second one must not meet the clean-up
            signal.signal(other, signal.SIG_IGN)
        raise Interrupted(number)

    with _handling(interrupt):
        yield


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Ignores these signals while the block runs: half a clean-up would help nobody."""
    with _handling(signal.SIG_IGN):
        yield


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
