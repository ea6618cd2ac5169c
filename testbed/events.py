"""What happens to a host that runs tunneld as a service, and how it is seen to be over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from testbed.booted import BootedHost
from testbed.probe import RATE_HZ, Probe
from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until

TIMEOUT_S: Final = 30.0

# Everything of ours in the packet filter, without counters.
_OURS: Final = """
nft -s list ruleset | sed -n '/^table ip tunneld/,/^}/p'
iptables-save | grep -i tunneld; iptables-legacy-save | grep -i tunneld; true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happens."""

    name: str
    before: tuple[str, ...] = ()
    """Shell commands that make the host one to which it can happen."""
    strike: str
    after: tuple[str, ...] = ()
    """Shell commands that take `before` back."""
    ends_daemon: bool = False


KILL: Final = Event(name="kill -KILL", strike="kill -KILL {pid}", ends_daemon=True)

FLUSHES: Final = (
    Event(name="nft flush ruleset", strike="nft flush ruleset"),
    *(
        Event(
            name=f"{program} -F FORWARD, policy DROP",
            before=(f"{program} -P FORWARD DROP",),
            strike=f"{program} -F FORWARD",
            after=(f"{program} -P FORWARD ACCEPT",),
        )
        for program in ("iptables-nft", "iptables-legacy")
    ),
)


def measure(event: Event, host: BootedHost, other: BootedHost) -> list[dict[str, object]]:
    """Lets it happen to `host` under probes to and from `other`; returns what each flow lost.

    `restored_s` is the time from the end of the command until all our rules and the service are
    seen to be there again, by looking again and again: a little more than the true one.
    """
    machine = host.machine
    with _made_vulnerable(event, machine):
        probes = [Probe(other, host), Probe(host, other)]
        for probe in probes:
            probe.wait_steady(time.monotonic(), TIMEOUT_S)
        rules, pid = _ours(machine), main_pid(machine)

        def is_restored() -> bool:
            is_started = not event.ends_daemon or main_pid(machine) not in (0, pid)
            return is_started and machine.is_active("tunneld") and _ours(machine) == rules

        machine.run("sh", "-c", event.strike.format(pid=pid))
        struck_at_s = time.monotonic()
        wait_until(is_restored, TIMEOUT_S, f"the end of: {event.name}", poll_s=0.0)
        restored_s = time.monotonic() - struck_at_s
        for probe in probes:
            probe.wait_steady(struck_at_s, TIMEOUT_S)
            probe.stop()
    return [
        {
            "event": event.name,
            "probe": direction,
            "rate_hz": RATE_HZ,
            "lost": probe.lost(),
            "gap_s": round(probe.longest_gap_s(), 3),
            "restored_s": round(restored_s, 3),
        }
        for direction, probe in zip(("to", "from"), probes, strict=True)
    ]


def main_pid(machine: SystemdMachine) -> int:
    """Returns the daemon's process id on its machine; 0 while there is none."""
    return int(machine.show("tunneld", "MainPID"))


def _ours(machine: SystemdMachine) -> str:
    return machine.run("sh", "-c", _OURS)


@contextmanager
def _made_vulnerable(event: Event, machine: SystemdMachine) -> Iterator[None]:
    for command in event.before:
        machine.run("sh", "-c", command)
    try:
        yield
    finally:
        for command in event.after:
            machine.run("sh", "-c", command)
