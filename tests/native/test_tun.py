"""Two hosts with real TUN devices: what containers behind them see."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from testbed.capture import Capture
from testbed.netns import Namespace, Rig
from testbed.wait import wait_until
from tests.native.hosts import PORT, adjacency
from tests.native.nodes import Node, two_nodes


@pytest.fixture
def nodes(rig: Rig) -> Iterator[tuple[Node, Node]]:
    with two_nodes(rig) as made:
        yield made


def ping(space: Namespace, *argv: str) -> str:
    """Sends one echo request; of several, ping would wait hardly at all for the last answer."""
    return space.run("ping", "-n", "-c", "1", "-W", "30", *argv, check=False)


def test_containers_reach_each_other_and_lose_four_hops(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    with Capture(here.space, "eth0") as capture:
        output = "".join(ping(here.container, "10.5.2.2") for _ in range(5))
    assert output.count("1 received") == 5
    # Two hosts forward and two tunnel ends take one hop each, as with flannel.
    assert re.findall(r"ttl=(\d+)", output) == ["60"] * 5
    assert here.drops() == there.drops() == {}
    datagrams = [packet for packet in capture.packets() if packet.haslayer("IP")]
    assert len(datagrams) == 10
    for packet in datagrams:
        outer = packet["IP"]
        assert (outer.proto, outer.sport, outer.dport) == (17, PORT, PORT)
        assert (outer.ttl, outer.tos, str(outer.flags)) == (64, 0, "DF")
        inner = bytes(outer.payload.payload)
        assert inner[0] == 0x45
        assert int.from_bytes(inner[2:4], "big") == len(inner) == 84


def test_the_host_itself_speaks_with_its_overlay_address(nodes: tuple[Node, Node]) -> None:
    here, _ = nodes
    assert "1 received" in ping(here.space, "10.5.2.0")


def test_tcp_arrives_whole_with_checksums_left_to_the_device(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.container.start("iperf3", "-s", "-1", "--forceflush").wait_for_output("listening")
    done = here.container.try_run("iperf3", "-c", "10.5.2.2", "-n", "20M", "--json")
    assert done.returncode == 0, done.stdout + done.stderr

    def received() -> int:
        counters = there.engine.counters()["adjacencies"].values()
        return sum(reading["rx_bytes"] for reading in counters)

    # Not all that was handed over: iperf3 ends while some is still on the way.
    read = json.loads(done.stdout)["end"]["sum_received"]["bytes"]
    assert read > 10 << 20
    wait_until(lambda: received() > read, what=f"{read} bytes")
    assert here.drops() == there.drops() == {}


def test_a_container_is_told_what_became_of_its_packets(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    unleased = ping(here.container, "10.5.250.7")
    # From the bridge's own address: the kernel puts it in.
    assert "From 10.5.1.1 icmp_seq=1 Destination Net Unreachable" in unleased
    # One hop for the host's own forwarding, the second would be the tunnel's.
    first = ping(here.container, "-t", "2", "10.5.2.2")
    assert "From 10.5.1.1 icmp_seq=1 Time to live exceeded" in first
    last = ping(here.container, "-t", "3", "10.5.2.2")
    assert "From 10.5.2.0 icmp_seq=1 Time to live exceeded" in last
    here.engine.commit({"put_adjacencies": [adjacency("peer", "192.0.2.2", mtu_bytes=1400)]})
    large = ping(here.container, "-M", "do", "-s", "1400", "10.5.2.2")
    assert "From 10.5.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)" in large
    assert here.drops() == {"no_route": 1, "hop_limit_exceeded": 1, "too_big": 1}
    assert there.drops() == {"hop_limit_exceeded": 1}

    def answers() -> list[int]:
        return [node.engine.counters()["icmp_sent"] for node in nodes]

    # One is counted after it has left: ping may have it before.
    wait_until(lambda: answers() == [3, 1], what="three answers of the one, one of the other")
