"""`tunneld lab run`: builds a lab, shows it, sends traffic, judges it and takes it down."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        lab = Lab(topology)
        try:
            pids = _work(lab)
        finally:
            with uninterruptible():
                lab.take_down()
        say(checks.check_nothing_left(topology, pids))
    say("done: the main job passed")
    return 0


def _work(lab: Lab) -> list[int]:
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
        for target in lab.views[-1].containers:
            rate = traffic.throughput_bits_per_s(
                first.container_namespace,
                last.container_namespace,
                target,
                duration_s=THROUGHPUT_S,
                log=topology.directory / "iperf3.log",
            )
            say(
                f"throughput {first.label}-c -> {last.label}-c: {rate / 1e6:,.0f} Mbit/s "
                f"(one TCP stream, IPv{target.version}, {THROUGHPUT_S} s)"
            )
    statuses = {host: status_of(host) for host in topology.hosts}
    say(f"tunneld status on {first.label}")
    print("".join(f"  {line}\n" for line in render_text(statuses[first]).splitlines()))

    say(checks.check_counters(topology, statuses))
    say(checks.check_underlay(topology, lab.views, overlay, foreign))
    pids = [pid for name in namespaces.existing(topology.prefix) for pid in namespaces.pids(name)]
    say("stopping the daemons")
    lab.stop_daemons()
    for host in topology.hosts:
        checks.check_host_is_clean(host)
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
