"""VXLAN against a bare kernel vxlan device: what each sends, the other takes whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.native.tunnels import Tunnel, tunnel
from tests.support.netns import Namespace, Rig

pytestmark = pytest.mark.root

RECEIVE = """
import hashlib, socket
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
digest, left = hashlib.sha256(), int(sys.argv[2])
with socket.create_connection((sys.argv[1], 5000)) as peer:
    while left:
        # Odd sizes, so that segments end anywhere.
        data = os.urandom(min(left, 999_983))
        digest.update(data)
        peer.sendall(data)
        left -= len(data)
print(digest.hexdigest())
"""

SIZE = 40_000_000


@pytest.fixture(params=[("wire", 4), ("gso", 4), ("wire", 6), ("gso", 6)], ids=str)
def ends(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    flavour, family = request.param
    with tunnel(rig, flavour, family) as made:
        yield made


def transfer(source: Namespace, destination: Namespace, address: str) -> None:
    """Sends by TCP, and compares what arrived."""
    receiver = destination.start(sys.executable, "-c", RECEIVE)
    receiver.wait_for_output("listening")
    argv = (sys.executable, "-c", SEND, address, str(SIZE))
    digest = source.run(*argv, timeout_s=60).strip()
    receiver.wait_for_output(f"{SIZE} {digest}", timeout_s=20)


def test_tcp_arrives_whole_both_ways_with_offloads_on(ends: Tunnel) -> None:
    assert set(ends.user.engine.offloads().values()) == {"on"}
    transfer(ends.user.container, ends.container, "10.5.2.2")
    transfer(ends.container, ends.user.container, "10.5.1.2")
    # Also to and from the hosts themselves.
    transfer(ends.user.space, ends.kernel, "10.5.2.0")
    transfer(ends.kernel, ends.user.space, "10.5.1.0")
    assert ends.user.drops() == {}
    assert ends.user.engine.drain_events() == []
    assert set(ends.user.engine.offloads().values()) == {"on"}
