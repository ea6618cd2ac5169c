"""A host that encrypts ends and is started again, while others send to it and hear nothing.

What happens is read off a capture of its link: one handshake, which the started host begins at
once, and from its answer on every packet arrives.

Needs root, etcd, iproute2 and tcpdump.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP

from testbed.capture import Capture
from testbed.exchange import json_lines, start_traffic
from testbed.netns import Rig
from testbed.network import Host, Network
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import config, psk_file
from tunneld.control.client import NotRunningError, request

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

RATE_HZ = 500.0
STREAM_BYTES = 400_000_000
SHORT = "udp port 8286 and less 260"
"""Handshakes, and ESP around probes, acknowledgements and nothing: the load itself is longer."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A datagram of encryption on the link of the host that is started again."""

    at_s: float
    is_of_victim: bool
    payload: bytes

    @property
    def kind(self) -> str:
        """What it is, by the tables of docs/encryption.md."""
        if self.payload[:4] == bytes(4):
            return {1: "initiation", 2: "response", 3: "cookie"}[self.payload[4]]
        return "esp"

    @property
    def base(self) -> int:
        """The SPI of ESP without its lane."""
        return int.from_bytes(self.payload[:4]) >> 6


def seen_by(capture: Capture, victim: Host, other: Host) -> list[Seen]:
    ends = {str(victim.public_ip), str(other.public_ip)}
    return [
        Seen(float(p.time), p[IP].src == str(victim.public_ip), bytes(p[UDP].payload))
        for p in capture.packets()
        if {p[IP].src, p[IP].dst} == ends
    ]


@pytest.fixture
def network(root_tools: None, rig: Rig) -> Network:
    network = Network(rig, backend=config("udp", "required"))
    for name in ("t1", "t2"):
        network.add(name, "--psk-file", str(psk_file(rig)))
    network.wait_connected()
    return network


def encrypted(host: Host) -> bool:
    try:
        peers: list[dict[str, Any]] = request(host.control_socket, "status", timeout_s=60.0)[
            "peers"
        ]
    except NotRunningError:
        return False
    return [peer["encrypted"] for peer in peers] == [True]


def knows_whom_it_agreed_with(host: Host) -> bool:
    path = host.space.directory / "state" / "agreed.json"
    return path.exists() and len(json.loads(path.read_text())["Keys"]) == 1


def test_a_started_host_has_its_packets_after_one_round_trip(
    network: Network, figures: list[dict[str, object]]
) -> None:
    other, victim = network.hosts
    # Nothing asks the victim's side for a packet: only what comes can tell it of the other.
    probe = Probe(other, victim, rate_hz=RATE_HZ)
    probe.wait_steady(0.0, 30.0)
    receiver = start_traffic(victim.container, "receive-stream", 7_003)
    receiver.wait_for_output("listening")
    sender = start_traffic(
        other.container, "send-stream", victim.container_ip, 7_003, STREAM_BYTES, 3
    )
    for number in (signal.SIGKILL, signal.SIGTERM):
        wait_until(lambda: encrypted(victim) and encrypted(other), 30.0, "keys")
        wait_until(lambda: knows_whom_it_agreed_with(victim), 30.0, "keys that are remembered")
        victim.end(number)
        heard = len(probe.arrivals())
        with Capture(network.switch, victim.name, SHORT, victim.space.directory / "start.pcap") as (
            capture
        ):
            victim.start()
            wait_until(lambda since=heard: len(probe.arrivals()) > since + 200, 60.0, "probes")  # type: ignore[misc]
        figures.append(
            {
                "ended by": number.name,
                **what_the_start_cost(seen_by(capture, victim, other), probe, heard),
            }
        )
    assert sender.wait(240.0) == 0, sender.output()
    assert receiver.wait(60.0) == 0, receiver.output()
    assert json_lines(receiver)[-1]["sha256"] == json_lines(sender)[-1]["sha256"]
    probe.stop()


def what_the_start_cost(seen: list[Seen], probe: Probe, heard: int) -> dict[str, object]:
    """Asserts how a start went, and returns how long each step of it took."""
    first = next(i for i, one in enumerate(seen) if one.is_of_victim)
    before, since = seen[:first], seen[first:]
    old = {one.base for one in before}
    assert old, "the other side goes on sending under the keys it has"
    asked = since[0]
    assert asked.kind == "initiation", "the first thing it sends begins a handshake"
    said = next(one for one in since if one.kind == "response" and not one.is_of_victim)
    assert said.payload[12:16] == asked.payload[8:12], "and that one is answered"
    proof = next(one for one in since if one.kind == "esp" and one.is_of_victim)
    assert proof.at_s >= said.at_s
    sent = [one for one in since if one.kind == "esp" and not one.is_of_victim]
    data = next(one for one in sent if one.base not in old)
    assert data.at_s >= proof.at_s, "which is proved before it is used"
    lost, after = sent[: sent.index(data)], sent[sent.index(data) :]
    assert not old & {one.base for one in after}, "from then on nothing is sealed by former keys"
    assert int.from_bytes(data.payload[4:8]) <= 64, "from the first that waited"
    numbers = [arrival.number for arrival in probe.arrivals()][heard:]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return {
        "initiation to response (ms)": round(1e3 * (said.at_s - asked.at_s), 2),
        "to its first packet (ms)": round(1e3 * (proof.at_s - asked.at_s), 2),
        "to the other's first packet (ms)": round(1e3 * (data.at_s - asked.at_s), 2),
        "its packets lost meanwhile": len(lost),
    }
