"""Much traffic through two hosts with every offload on: whole, in order, without growth.

TUNNELD_LONG_TESTS=1 runs the same for longer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.native.hosts import keep_order
from tests.native.nodes import Node, two_nodes
from tests.native.transfer import transfer

LONG = os.environ.get("TUNNELD_LONG_TESTS") == "1"
GROWTH_LIMIT_BYTES = 64 << 20

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def nodes(module_rig: Rig) -> Iterator[tuple[Node, Node]]:
    with two_nodes(module_rig) as made:
        yield made


def resident_bytes() -> int:
    """The engines live in this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def healthy(*nodes: Node) -> bool:
    beats = [beat for node in nodes for beat in node.engine.heartbeat()]
    events = [event for node in nodes for event in node.engine.drain_events()]
    return all(beat["alive"] for beat in beats) and events == []


def python(space: Namespace, code: str, *argv: str, timeout_s: float = 120) -> str:
    return space.run(sys.executable, "-c", code, *argv, timeout_s=timeout_s)


def test_a_large_transfer_arrives_byte_for_byte(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    size = 2_000_000_000 if LONG else 200_000_000
    transfer(here.container, there.container, "10.5.2.2", size)
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}


# Either end: over each of so many connections so many bytes both ways, all at once.
STREAMS = """
import selectors, socket, sys
count, size = int(sys.argv[1]), int(sys.argv[2])
if len(sys.argv) == 4:
    peers = [socket.create_connection((sys.argv[3], 5002)) for _ in range(count)]
else:
    with socket.create_server(("", 5002), backlog=count) as server:
        print("listening", flush=True)
        peers = [server.accept()[0] for _ in range(count)]
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
chooser, block = selectors.DefaultSelector(), memoryview(bytes(1 << 17))
left, got, open_ways = dict.fromkeys(peers, size), dict.fromkeys(peers, 0), {}
for peer in peers:
    peer.setblocking(False)
    open_ways[peer] = READ | WRITE
    chooser.register(peer, READ | WRITE)
while open_ways:
    for key, ready in chooser.select():
        peer, before = key.fileobj, open_ways[key.fileobj]
        if ready & WRITE:
            left[peer] -= peer.send(block[:left[peer]])
            if not left[peer]:
                peer.shutdown(socket.SHUT_WR)
                open_ways[peer] &= ~WRITE
        if ready & READ:
            data = peer.recv(1 << 17)
            got[peer] += len(data)
            if not data:
                open_ways[peer] &= ~READ
        if not open_ways[peer]:
            chooser.unregister(peer)
            del open_ways[peer]
        elif open_ways[peer] != before:
            chooser.modify(peer, open_ways[peer])
print("streams", len(got), "bytes of each", *sorted(set(got.values())), flush=True)
"""


def test_16_streams_both_ways_all_move_and_nothing_grows(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    size = 150_000_000 if LONG else 15_000_000
    argv, all_moved = ("16", str(size)), f"streams 16 bytes of each {size}\n"
    receiver = there.container.start(sys.executable, "-c", STREAMS, *argv)
    receiver.wait_for_output("listening")
    before = resident_bytes()
    assert python(here.container, STREAMS, *argv, "10.5.2.2", timeout_s=200) == all_moved
    receiver.wait_for_output(all_moved)
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}
    assert resident_bytes() - before < GROWTH_LIMIT_BYTES


FLOOD = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.5.2.2", 9))
s.send(bytes(64))
print("sending", flush=True)
while True:
    s.send(bytes(64))
"""


def test_a_flood_on_a_slow_receiver_harms_nobody_else(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    before = resident_bytes()
    # Nobody reads what arrives on port 9: the receiver is as slow as can be.
    there.container.start(
        sys.executable,
        "-c",
        "import socket, signal; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.bind(('', 9)); print('bound', flush=True); signal.pause()",
    ).wait_for_output("bound")
    flood = here.container.start(sys.executable, "-c", FLOOD)
    flood.wait_for_output("sending")
    count = 400 if LONG else 40
    # One by one: of several at once, ping waits hardly at all for the last answers.
    ping = ("ping", "-n", "-c", "1", "-W", "2", "10.5.2.2")
    answered = [here.container.try_run(*ping).returncode == 0 for _ in range(count)]
    # They share queues with the flood, so that some may be lost there; none is held up.
    assert sum(answered) >= count / 2
    assert flood.exit_status is None, "it ended before the pings"
    assert flood.stop() == 0
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}
    assert resident_bytes() - before < GROWTH_LIMIT_BYTES


# The sender keeps at most 400 packets on the way: none has to be lost.
FLOWS_RECEIVE = """
import select, socket, struct, sys
flows, rounds = int(sys.argv[1]), int(sys.argv[2])
server = socket.create_server(("", 5001))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.bind(("", 10))
print("listening", flush=True)
sender, _ = server.accept()
sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
next_round, wrong, count = {}, 0, 0
while count < flows * rounds and select.select([s], [], [], 60)[0]:
    data, (_, source) = s.recvfrom(2000)
    number, = struct.unpack("!I", data[:4])
    wrong += number != next_round.get(source, 0)
    next_round[source] = number + 1
    count += 1
    if count % 100 == 0:
        sender.send(b"+")
print("flows", len(next_round), "packets", count, "wrong", wrong, flush=True)
"""

FLOWS_SEND = """
import os, socket, struct, sys
# Moved to another processor, a sender may overtake himself.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
flows, rounds = int(sys.argv[1]), int(sys.argv[2])
receiver = socket.create_connection(("10.5.2.2", 5001))
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
s.connect(("10.5.2.2", 0))
def total(data):
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value
addresses = socket.inet_aton("10.5.1.2") + socket.inet_aton("10.5.2.2")
sent = known = 0
def wait(until):
    global known
    while known < until:
        progress = receiver.recv(100)
        if not progress:
            sys.exit(f"the receiver gave up after {known} of {sent} packets")
        known += 100 * len(progress)
for base in range(0, rounds, 2):
    for flow in range(flows):
        # Neighbours of a flow are joined, unless they have no checksum.
        for number in (base, base + 1):
            payload = struct.pack("!I", number) + bytes(60)
            header = struct.pack("!4H", 20000 + flow, 10, 72, 0)
            pseudo = addresses + struct.pack("!HH", 17, 72)
            checksum = 0xFFFF - total(pseudo + header + payload) or 0xFFFF
            header = struct.pack("!4H", 20000 + flow, 10, 72, 0 if flow % 10 == 0 else checksum)
            s.send(header + payload)
            sent += 1
            wait(sent - 400)
wait(sent)
"""


def test_10_000_flows_arrive_each_in_order(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    for node in nodes:
        keep_order(node.engine)
    flows, rounds = "10000", "20" if LONG else "4"
    receiver = there.container.start(sys.executable, "-c", FLOWS_RECEIVE, flows, rounds)
    receiver.wait_for_output("listening")
    python(here.container, FLOWS_SEND, flows, rounds)
    packets = int(flows) * int(rounds)
    receiver.wait_for_output(f"flows {flows} packets {packets} wrong 0", timeout_s=60)
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}
