"""Numbered probes at a fixed rate from one container to another, and the holes in what arrived."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, Protocol

from testbed.exchange import json_lines, start_traffic
from testbed.netns import Place
from testbed.wait import wait_until

RATE_HZ: Final = 100.0
"""Far below what either daemon carries: what is missing was lost to the event under test."""

_ports = itertools.count(20_000)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One probe as its receiver saw it."""

    number: int
    at_s: float


class End(Protocol):
    """A host as far as its container sends or receives probes."""

    @property
    def name(self) -> str: ...

    @property
    def container(self) -> Place: ...

    @property
    def container_ip(self) -> IPv4Address: ...


class Probe:
    """One running flow of probes."""

    def __init__(
        self, first: End, second: End, address: object = None, *, rate_hz: float = RATE_HZ
    ) -> None:
        """Starts a flow to `address` of the second container; None: its IPv4 address."""
        self.name = f"{first.name}->{second.name}"
        port = next(_ports)
        self._receiver = start_traffic(second.container, "receive-probes", port)
        self._receiver.wait_for_output("listening")
        self._sender = start_traffic(
            *(first.container, "send-probes", address or second.container_ip, port, rate_hz)
        )

    def arrivals(self) -> list[Arrival]:
        return [
            Arrival(line["number"], line["at_s"])
            for line in json_lines(self._receiver)
            if "number" in line
        ]

    def wait_steady(self, since_s: float, timeout_s: float, count: int = 100) -> None:
        """Waits until `count` probes in a row have arrived after `since_s`, none missing."""

        def steady() -> bool:
            last = self.arrivals()[-count:]
            return (
                len(last) == count
                and last[0].at_s > since_s
                and all(b.number == a.number + 1 for a, b in itertools.pairwise(last))
            )

        what = f"{count} probes {self.name} in a row"
        wait_until(steady, timeout_s, what, poll_s=0.1)

    def stop(self) -> None:
        """Ends the sender, waits for its last probe, ends the receiver."""
        self._sender.stop()
        self._receiver.stop()

    def lost(self) -> int:
        """Returns how many probes between the first and the last arrival are missing."""
        numbers = [arrival.number for arrival in self.arrivals()]
        return numbers[-1] - numbers[0] + 1 - len(set(numbers))

    def longest_gap_s(self) -> float:
        """Returns the longest time between two arrivals."""
        times = [arrival.at_s for arrival in self.arrivals()]
        return max(b - a for a, b in itertools.pairwise(times))

    def gap_after_s(self, since_s: float) -> float:
        """Returns the longest time between two arrivals of which the later came after `since_s`."""
        times = [arrival.at_s for arrival in self.arrivals()]
        return max(b - a for a, b in itertools.pairwise(times) if b > since_s)
