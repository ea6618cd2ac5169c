"""Hosts that encrypt while their store is away: keys are made anew, starts come back from memory.

TUNNELD_LONG_TESTS=1 keeps the store away for ten minutes, in which keys are made anew as they age.
Else hosts read their files again, which makes keys anew too, as often in seconds.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from testbed.netns import Rig
from testbed.network import Host, Network
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import IS_LONG, config, psk_file
from tunneld.control.client import NotRunningError, request

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]

OUTAGE_S = 600.0
OLDEST_S = 160.0
"""How old keys in use become at the most: both sides make new ones by then (150 s, 10 more or
less)."""
RENEWALS = 4
"""Of each pair while the store is away, where none waits for its age."""
RATE_HZ = 100.0
"""Of the probes of each flow."""
TTL = "15s"
"""Of one host's lease: it ends while the store is away."""


def status(host: Host) -> dict[str, Any]:
    """Returns what a daemon says of itself; nothing while there is none."""
    try:
        found: dict[str, Any] = request(host.control_socket, "status", timeout_s=60.0)
    except NotRunningError:
        return {"peers": [], "state": "none"}
    return found


class Watched:
    """Three hosts with a PSK in a network that requires encryption, and probes between all."""

    def __init__(self, rig: Rig) -> None:
        self.network = Network(rig, backend=config("udp", "required"))
        psk = ("--psk-file", str(psk_file(rig)))
        for name, options in (("t1", ()), ("t2", ()), ("t3", ("--lease-ttl", TTL))):
            self.network.add(name, *psk, *options)
        self.network.wait_connected()
        wait_until(self.is_encrypted, 30.0, "keys of all pairs")
        self.probes = [Probe(a, b, rate_hz=RATE_HZ) for a, b in self.network.pairs()]
        self.renewals: dict[tuple[str, str], int] = {}
        self.oldest_s = 0.0
        self._ages: dict[tuple[str, str], float] = {}

    def is_encrypted(self) -> bool:
        found = [peer for host in self.network.hosts for peer in status(host)["peers"]]
        return [peer["encrypted"] for peer in found] == [True] * 6

    def observe(self) -> dict[tuple[str, str], float]:
        """Returns how old each pair's keys are, by host and subnet; counts how often it had new
        ones."""
        ages: dict[tuple[str, str], float] = {}
        for host in self.network.hosts:
            for peer in status(host)["peers"]:
                pair = (host.name, peer["subnet"])
                ages[pair] = peer["security"]["age_s"]
                assert ages[pair] is not None, f"{pair} without keys"
                is_new = ages[pair] < self._ages.get(pair, 0.0)
                self.renewals[pair] = self.renewals.get(pair, 0) + is_new
        self.oldest_s = max(self.oldest_s, *ages.values())
        self._ages = ages
        return ages

    def renew(self) -> None:
        """Has one host after the other make keys anew with all, and waits for them."""
        for host in self.network.hosts:
            since_s = time.monotonic()
            host.running.signal(signal.SIGHUP)

            def are_new(host: Host = host, since_s: float = since_s) -> bool:
                own = [age_s for (name, _), age_s in self.observe().items() if name == host.name]
                return len(own) == 2 and max(own) < time.monotonic() - since_s

            wait_until(are_new, 30.0, f"new keys of {host.name}")

    def wait_steady(self) -> None:
        now_s = time.monotonic()
        for probe in self.probes:
            probe.wait_steady(now_s, 60.0, 50)

    def lost(self, *without: str) -> list[int]:
        """Returns how many probes are missing between arrivals, of those not of these hosts."""
        names = [set(probe.name.split("->")) for probe in self.probes]
        found = zip(names, self.probes, strict=True)
        return [probe.lost() for ends, probe in found if not ends & {*without}]


@pytest.fixture
def watched(root_tools: None, rig: Rig) -> Iterator[Watched]:
    made = Watched(rig)
    yield made
    for probe in made.probes:
        probe.stop()


def ends_s(host: Host) -> float:
    """Returns when a host's lease ends, in seconds from now."""
    ends_at = datetime.fromisoformat(status(host)["lease"]["expires_at"])
    return (ends_at - datetime.now(UTC)).total_seconds()


def test_pairs_go_on_without_the_store_and_hosts_that_start_come_back_from_memory(
    watched: Watched, figures: list[dict[str, object]]
) -> None:
    network = watched.network
    t2, t3 = network.host("t2"), network.host("t3")
    subnets = {host.name: host.subnet for host in network.hosts}
    watched.wait_steady()
    watched.observe()
    network.etcd.stop()
    away_s = time.monotonic()

    if IS_LONG:

        def is_over() -> bool:
            watched.observe()
            return time.monotonic() >= away_s + OUTAGE_S

        wait_until(is_over, OUTAGE_S + 60.0, "the end of the outage", poll_s=2.0)
        # 600 s by at most 160 s.
        assert min(watched.renewals.values()) >= 3
        assert watched.oldest_s < OLDEST_S + 10.0
    else:
        for _ in range(RENEWALS):
            watched.renew()
        assert min(watched.renewals.values()) >= RENEWALS
    wait_until(lambda: ends_s(t3) < 0, 30.0, "the end of a lease that cannot be renewed")
    watched.wait_steady()
    assert watched.lost() == [0] * 6
    assert status(t3)["state"] == "degraded"
    renewals = min(watched.renewals.values()), max(watched.renewals.values())

    for number in (signal.SIGKILL, signal.SIGTERM):
        t2.end(number)
        t2.start()
        watched.wait_steady()
        wait_until(watched.is_encrypted, 30.0, "keys of all pairs")
        assert t2.subnet == subnets["t2"]
    assert watched.lost("t2") == [0, 0]
    lost = watched.lost()
    probed = sum(len(probe.arrivals()) for probe in watched.probes)
    silent_s = time.monotonic() - away_s

    network.etcd.start()

    def states() -> list[str]:
        return [status(host)["state"] for host in network.hosts]

    wait_until(lambda: states() == ["ready"] * 3, 60.0, "hosts with nothing to complain of")
    watched.wait_steady()
    assert {host.name: host.subnet for host in network.hosts} == subnets
    assert watched.lost() == lost, "that the store is back costs no packet"
    assert {host.lease_key for host in network.hosts} <= set(network.leases())
    figures.append(
        {
            "store away (s)": round(silent_s),
            "new keys of a pair": f"{renewals[0]} to {renewals[1]}",
            "oldest keys (s)": round(watched.oldest_s, 1),
            "probes": probed,
            "lost of those that ran on": 0,
        }
    )
