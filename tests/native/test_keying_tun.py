"""Two hosts with real TUN devices and a lane for each worker: what containers and the wire see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.capture import Capture
from testbed.netns import Rig
from testbed.wait import wait_until
from tests.native.nodes import ESP_PORT, Node, trusted, two_nodes
from tests.native.transfer import transfer
from tunneld import _native

PATTERN = "73656372657470696e67"
"""Of each ping's payload, in hexadecimal digits."""


@pytest.fixture
def identities(tmp_path: Path) -> dict[int, _native.Identity]:
    return {number: _native.Identity.create(tmp_path / f"key{number}") for number in (1, 2)}


@pytest.fixture
def nodes(rig: Rig, identities: dict[int, _native.Identity]) -> Iterator[tuple[Node, Node]]:
    with two_nodes(rig, identities) as made:
        yield made


def ping(node: Node, *argv: str) -> str:
    command = ("ping", "-n", "-c", "1", "-W", "30", "-p", PATTERN, *argv, "10.5.2.2")
    return node.container.run(*command, check=False)


FLOWS = """
import socket
for port in range(2000, 2064):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(bytes(100), ("10.5.2.2", port))
"""


def test_containers_speak_by_all_lanes_and_nothing_of_it_is_on_the_wire(
    nodes: tuple[Node, Node],
) -> None:
    here, there = nodes
    with Capture(here.space, "eth0") as capture:
        # The first one waits for keys.
        assert "1 received" in ping(here)
        # As large as the tunnel takes, and one byte more.
        assert "1 received" in ping(here, "-M", "do", "-s", str(1438 - 28))
        assert "(mtu = 1438)" in ping(here, "-M", "do", "-s", str(1439 - 28))
        here.container.run("python3", "-c", FLOWS)
        transfer(here.container, there.container, "10.5.2.2", 3_000_000)
        transfer(there.container, here.container, "10.5.1.2", 3_000_000)
    sent = [packet for packet in capture.packets() if packet.haslayer("UDP")]
    lanes = set()
    for packet in sent:
        datagram = bytes(packet["UDP"].payload)
        assert packet["UDP"].dport == ESP_PORT
        assert bytes.fromhex(PATTERN) not in datagram
        assert str(packet["IP"].flags) == "DF"
        if datagram[:4] != bytes(4) and packet["IP"].src == "192.0.2.1":
            # The lane stands in the last six bits of the SPI.
            lane = datagram[3] & 0x3F
            assert (packet["UDP"].sport == ESP_PORT) == (lane == 0)
            lanes.add((lane, packet["UDP"].sport))
    assert sorted(lane for lane, _ in lanes) == [0, 1], "each by one port"
    assert here.drops() == {"too_big": 1}
    assert there.drops() == {}


def test_a_container_is_told_that_there_are_no_keys_for_whom_it_sends_to(
    nodes: tuple[Node, Node], identities: dict[int, _native.Identity]
) -> None:
    here, _ = nodes
    assert "1 received" in ping(here)
    key = identities[2].public_key
    here.engine.commit({"drop_identities": [key]})
    assert "From 10.5.1.1 icmp_seq=1 Destination Net Unreachable" in ping(here)
    here.engine.commit({"put_identities": [trusted(2, identities[2])]})
    wait_until(lambda: "1 received" in ping(here, "-W", "1"), what="an answer")
    assert set(here.drops()) <= {"no_keys", "esp_unknown_spi"}
