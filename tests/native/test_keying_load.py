"""Keys made anew again and again while containers send as much as they can.

Needs root and iproute2. TUNNELD_LONG_TESTS=1 goes on for a minute.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from testbed.netns import Rig
from testbed.process import Process
from testbed.wait import wait_until
from tests.native.hosts import keep_order
from tests.native.nodes import Node, two_nodes
from tests.native.test_load import LONG, resident_bytes
from tunneld import _native

pytestmark = pytest.mark.root

FLOWS = 4
GROWTH_LIMIT_BYTES = 4 << 20
ROUNDS = 15 if LONG else 2
"""In each of them both sides make keys anew, once with the processors to themselves, once not."""

# Each keeps to one processor, else it overtakes itself between two queues of a link in the machine.
# Each flow has so many packets under way that none is lost for want of room, however slow we are.
FLOOD = """
import os, selectors, signal, socket, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
FLOWS, WINDOW, BYTES = int(sys.argv[1]), 24, 1400
running = True
def end(*_):
    global running
    running = False
signal.signal(signal.SIGTERM, end)
flows = selectors.DefaultSelector()
def number(count):
    return count.to_bytes(8, "big")
for port in range(FLOWS):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    flow.connect(("10.5.2.2", 6000 + port))
    flows.register(flow, selectors.EVENT_READ, [0, 0])
def fill(flow, counts):
    while running and counts[0] < counts[1] + WINDOW:
        flow.send(number(counts[0]).ljust(BYTES, b"x"))
        counts[0] += 1
for key in flows.get_map().values():
    fill(key.fileobj, key.data)
print("flooding", flush=True)
while running or any(sent > heard for sent, heard in (k.data for k in flows.get_map().values())):
    ready = flows.select(60.0)
    if not ready:
        sys.exit("nothing comes any more: " + str([k.data for k in flows.get_map().values()]))
    for key, _ in ready:
        counts = key.data
        answer = key.fileobj.recv(BYTES)
        if answer != number(counts[1]).ljust(BYTES, b"x"):
            sys.exit(f"{counts[1]} was due, {int.from_bytes(answer[:8], 'big')} came")
        counts[1] += 1
        fill(key.fileobj, counts)
print("whole", sum(key.data[1] for key in flows.get_map().values()), flush=True)
"""
ECHO = """
import os, selectors, socket, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
flows = selectors.DefaultSelector()
for port in range(int(sys.argv[1])):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    flow.bind(("10.5.2.2", 6000 + port))
    flows.register(flow, selectors.EVENT_READ, [0])
print("listening", flush=True)
while True:
    for key, _ in flows.select():
        packet, sender = key.fileobj.recvfrom(2000)
        found = int.from_bytes(packet[:8], "big")
        if found != key.data[0]:
            sys.exit(f"{key.data[0]} was due, {found} came")
        key.data[0] += 1
        key.fileobj.sendto(packet, sender)
"""


@pytest.fixture
def nodes(rig: Rig, tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    keys = {number: _native.Identity.create(tmp_path / f"key{number}") for number in (1, 2)}
    with two_nodes(rig, keys) as made:
        yield made


@contextmanager
def flood(nodes: tuple[Node, Node]) -> Iterator[Process]:
    """Fills the tunnel both ways with numbered packets; both ends stop at one that is not due."""
    here, there = nodes
    assert "1 received" in here.container.run("ping", "-c", "1", "-W", "30", "10.5.2.2")
    echo = there.container.start(sys.executable, "-I", "-c", ECHO, str(FLOWS))
    echo.wait_for_output("listening")
    sender = here.container.start(sys.executable, "-I", "-c", FLOOD, str(FLOWS))
    sender.wait_for_output("flooding")
    try:
        yield sender
    except AssertionError as error:
        error.add_note(echo.output())
        raise
    assert sender.stop(90.0) == 0, sender.output() + echo.output()
    assert echo.exit_status is None, echo.output()


@contextmanager
def busy_loops(node: Node) -> Iterator[None]:
    """Keeps each processor busy, as a container may."""
    with ExitStack() as started:
        for processor in sorted(os.sched_getaffinity(0)):
            program = f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"
            loop = node.container.start(sys.executable, "-I", "-c", program)
            started.callback(loop.stop)
        yield


def batch(node: Node) -> None:
    """Schedules an engine's threads as the daemon does where processors are short."""
    for beat in node.engine.heartbeat():
        if beat["duty"] == "keying":
            os.setpriority(os.PRIO_PROCESS, beat["thread_id"], 5)
        else:
            os.sched_setscheduler(beat["thread_id"], os.SCHED_BATCH, os.sched_param(0))


def renew(nodes: tuple[Node, Node], sender: Process, number: int) -> float:
    """One side makes keys anew; returns how long it took until both send by them."""
    since_s = time.monotonic()
    nodes[number % 2].engine.renew()

    def is_renewed() -> bool:
        assert sender.exit_status is None, sender.output()
        ages = [node.engine.security()[0]["age_s"] for node in nodes]
        return all(age is not None and age < time.monotonic() - since_s for age in ages)

    wait_until(is_renewed, 30.0, "new keys on both sides")
    return time.monotonic() - since_s


def test_keys_are_renewed_at_full_load_without_loss_or_disorder_and_memory_stays(
    nodes: tuple[Node, Node], capsys: pytest.CaptureFixture[str]
) -> None:
    for node in nodes:
        keep_order(node.engine)
        batch(node)
    alone_s, beside_s, resident = [], [], []
    with flood(nodes) as sender:
        for _ in range(ROUNDS):
            alone_s += [renew(nodes, sender, number) for number in range(2)]
            with busy_loops(nodes[0]):
                beside_s += [renew(nodes, sender, number) for number in range(2)]
            resident.append(resident_bytes())
    for node in nodes:
        assert node.drops() == {}, "each packet came, and was opened once"
        assert node.engine.security()[0]["sets"] <= 4
    # In the first round packets find out how much of its room a batch uses.
    assert resident[-1] - resident[0] < GROWTH_LIMIT_BYTES
    [total] = [int(line.split()[1]) for line in sender.output().splitlines() if "whole" in line]
    assert total > 0
    if LONG:
        with capsys.disabled():
            print(total, resident, sorted(alone_s), sorted(beside_s))
