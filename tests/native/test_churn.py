"""Peers that come and go while traffic to another moves: none of it is lost, or counted elsewhere.

Each change of the tables makes a new FIB, in which every adjacency must still be who it was.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from testbed.netns import Rig
from tests.native.hosts import adjacency
from tests.native.nodes import Node, two_nodes
from tests.native.transfer import transfer
from tunneld import _native

pytestmark = pytest.mark.root

SIZE = 300_000_000
STRANGERS = 40
"""Peers that change places with others by each change."""


@pytest.fixture
def nodes(module_rig: Rig) -> Iterator[tuple[Node, Node]]:
    with two_nodes(module_rig) as made:
        yield made


def names(turn: int) -> list[str]:
    """Half of them sort before the peer, half behind it."""
    return [f"{'az'[number % 2]}{turn}-{number}" for number in range(STRANGERS)]


def churn(node: Node, done: threading.Event) -> int:
    """Changes the tables until it is done; returns how often."""
    peer = 3 - node.number
    for turn in itertools.count():
        if done.is_set():
            return turn
        # The peer itself is said again too, each time with another MTU.
        put = [adjacency("peer", f"192.0.2.{peer}", mtu_bytes=1472 + 4 * (turn % 2))]
        put += [adjacency(name, f"198.51.100.{n + 1}") for n, name in enumerate(names(turn))]
        entries: list[_native.Entry] = [
            {"prefix": f"10.5.{100 + n}.0/24", "target": name} for n, name in enumerate(names(turn))
        ]
        dropped = names(turn - 1) if turn else []
        node.engine.commit(
            {"put_adjacencies": put, "put_entries": entries, "drop_adjacencies": dropped}
        )
    raise AssertionError


def test_what_goes_to_one_peer_is_his_whoever_comes_and_goes_meanwhile(
    nodes: tuple[Node, Node],
) -> None:
    here, there = nodes
    done, turns = threading.Event(), dict.fromkeys((1, 2), 0)

    def change(node: Node) -> None:
        turns[node.number] = churn(node, done)

    threads = [threading.Thread(target=change, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        transfer(here.container, there.container, "10.5.2.2", SIZE)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert min(turns.values()) >= 20, turns
    for node in nodes:
        counters = node.engine.counters()["adjacencies"]
        busy = {name for name, count in counters.items() if count["tx_packets"]}
        assert busy == {"peer"}
        assert counters["peer"]["tx_bytes"] > 10_000
        assert node.drops() == {}
    sent, came = (node.engine.counters()["adjacencies"]["peer"] for node in nodes)
    assert sent["tx_packets"] == came["rx_packets"]
