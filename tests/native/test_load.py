"""Much traffic through two hosts with every offload on: whole, in order, without growth.

TUNNELD_LONG_TESTS=1 runs the same for longer.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.nodes import Node, two_nodes
from tests.support.netns import Namespace, Rig

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


RECEIVE = """
import hashlib, socket, sys
with socket.create_server(("", 5000)) as server:
    print("listening", flush=True)
    peer, _ = server.accept()
    digest, count = hashlib.sha256(), 0
    while data := peer.recv(1 << 20):
        digest.update(data)
        count += len(data)
    print(count, digest.hexdigest(), flush=True)
"""

SEND = """
import hashlib, os, socket, sys
digest, left = hashlib.sha256(), int(sys.argv[1])
with socket.create_connection(("10.5.2.2", 5000)) as peer:
    while left:
        # Odd sizes, so that segments end anywhere.
        data = os.urandom(min(left, 999_983))
        digest.update(data)
        peer.sendall(data)
        left -= len(data)
print(digest.hexdigest())
"""


def test_a_large_transfer_arrives_byte_for_byte(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    size = 2_000_000_000 if LONG else 200_000_000
    receiver = there.container.start(sys.executable, "-c", RECEIVE)
    receiver.wait_for_output("listening")
    digest = python(here.container, SEND, str(size), timeout_s=600).strip()
    receiver.wait_for_output(f"{size} {digest}")
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}


def test_16_streams_both_ways_all_move_and_nothing_grows(nodes: tuple[Node, Node]) -> None:
    here, there = nodes
    there.container.start("iperf3", "-s", "-1", "--forceflush").wait_for_output("listening")
    before = resident_bytes()
    seconds = "30" if LONG else "3"
    argv = ("iperf3", "-c", "10.5.2.2", "-P", "16", "--bidir", "-t", seconds, "--json")
    done = here.container.try_run(*argv, timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr
    streams = json.loads(done.stdout)["end"]["streams"]
    assert len(streams) == 32
    assert all(stream["receiver"]["bytes"] > 100_000 for stream in streams)
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}
    assert resident_bytes() - before < GROWTH_LIMIT_BYTES


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
    seconds = 20 if LONG else 2
    flood = here.container.start(
        sys.executable,
        "-c",
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.connect(('10.5.2.2', 9));"
        f"end = time.monotonic() + {seconds}; n = 0\n"
        "while time.monotonic() < end:\n    s.send(bytes(64)); n += 1\n"
        "print('sent', n, flush=True)",
    )
    output = here.container.run(
        "ping", "-n", "-c", "20", "-i", "0.05", "-W", "3", "10.5.2.2", timeout_s=60
    )
    # Its packets share queues with the flood, so that some may be lost there; none is held up.
    received = re.search(r"(\d+) received", output)
    assert received
    assert int(received[1]) >= 10
    flood.wait_for_output("sent", timeout_s=60)
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
while count < flows * rounds and select.select([s], [], [], 10)[0]:
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
import socket, struct, sys
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
    flows, rounds = "10000", "20" if LONG else "4"
    receiver = there.container.start(sys.executable, "-c", FLOWS_RECEIVE, flows, rounds)
    receiver.wait_for_output("listening")
    python(here.container, FLOWS_SEND, flows, rounds)
    packets = int(flows) * int(rounds)
    receiver.wait_for_output(f"flows {flows} packets {packets} wrong 0", timeout_s=60)
    assert healthy(here, there)
    assert here.drops() == there.drops() == {}
