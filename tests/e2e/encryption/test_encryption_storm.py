"""Two hundred peers shake hands with one host at once, when it starts and when they all do.

They are of a second implementation, each at an address of its own. Needs root, etcd and iproute2.
"""

from __future__ import annotations

import base64
import json
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from testbed.netns import Rig, inside
from testbed.network import PREFIX, Host, Network
from testbed.wait import wait_until
from tests.interop.encryption import config
from tests.native.second_peer import PORT, Initiated, Pair, SecondPeer
from tunneld.control.client import NotRunningError, request

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

PEERS = 200
REPEAT_S = 1.0
"""When a peer that got no answer tries again, about as tunneld's second time."""


@dataclass
class Remote:
    """One of the peers: it answers, and asks again until it is answered."""

    peer: SecondPeer
    udp: socket.socket
    subnet: str
    begun: list[Initiated] = field(default_factory=list)
    made: Pair | None = None
    asked: int = 0

    def ask(self, to: tuple[str, int], key: bytes) -> None:
        self.begun.append(self.peer.initiate(key))
        self.udp.sendto(self.begun[-1].message, to)

    def take(self, datagram: bytes, source: tuple[str, int]) -> None:
        """Takes what came: an initiation, a cookie, a response; knows nothing of other things."""
        if datagram[:4] != bytes(4):
            return
        match datagram[4]:
            case 1:
                self.asked += 1
                answer = self.peer.answer(datagram)
                self.udp.sendto(answer.message, source)
            case 2:
                for begun in self.begun:
                    if begun.index == datagram[12:16]:
                        self.made = begun.finish(datagram)
                        self.udp.sendto(self.made.out.seal(b"", 1), source)
            case 3:
                for begun in self.begun:
                    if begun.index == datagram[8:12]:
                        self.udp.sendto(begun.with_cookie(datagram), source)


class Crowd:
    """All of them, on one link."""

    def __init__(self, network: Network) -> None:
        self.space = network.rig.namespace("crowd")
        network.rig.link(
            *(network.switch, "crowd", self.space, "eth0"),
            first_bridge="switch",
            second_address="10.99.0.19/24",
        )
        addresses = [f"10.99.0.{20 + number}" for number in range(PEERS)]
        batch = "".join(f"address add {one}/24 dev eth0\n" for one in addresses)
        self.space.run("ip", "-batch", "-", stdin=batch)
        self.remotes: list[Remote] = []
        self._ready = selectors.DefaultSelector()
        with inside(self.space):
            for number, address in enumerate(addresses):
                udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                udp.bind((address, PORT))
                udp.setblocking(False)
                subnet = f"10.5.{number + 20}.0/24"
                remote = Remote(SecondPeer((subnet,), PREFIX), udp, subnet)
                self.remotes.append(remote)
                self._ready.register(udp, selectors.EVENT_READ, remote)
        puts = [put for number, one in enumerate(self.remotes) for put in _entries(number, one)]
        for first in range(0, len(puts), 100):  # etcd takes 128 in one transaction
            network.etcd.ctl("txn", stdin="\n" + "".join(puts[first : first + 100]) + "\n\n")

    def serve(self, seconds: float) -> None:
        """Answers what comes for a while."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            for key, _ in self._ready.select(left_s):
                datagram, source = key.fileobj.recvfrom(2_000)  # type: ignore[union-attr]
                key.data.take(datagram, source)

    def close(self) -> None:
        self._ready.close()
        for remote in self.remotes:
            remote.udp.close()


def _entries(number: int, remote: Remote) -> tuple[str, str]:
    """Returns what writes record and lease of a peer."""
    key = remote.subnet.replace("/", "-")
    holder = {"PublicIP": remote.udp.getsockname()[0], "PublicIPv6": None}
    said = {"Key": remote.peer.key, "Port": PORT, "Instance": f"{number:016x}"}
    record = {"Format": 1, "Subnet": key, **holder, "Version": "0", "Encryption": said}

    def quoted(value: object) -> str:
        return json.dumps(json.dumps(value))

    return (
        f"put {PREFIX}/tunneld/nodes/crowd{number} {quoted(record)}\n",
        f"put {PREFIX}/subnets/{key} {quoted(holder)}\n",
    )


def status(host: Host) -> dict[str, Any]:
    try:
        found: dict[str, Any] = request(host.control_socket, "status", timeout_s=60.0)
    except NotRunningError:
        return {"peers": [], "drops": {}, "state": "none"}
    return found


def confirmed(host: Host) -> int:
    """Returns with how many there are keys that both have proved."""
    return sum(peer["security"]["state"] == "confirmed" for peer in status(host)["peers"])


@pytest.fixture
def crowd(root_tools: None, rig: Rig) -> Iterator[tuple[Host, Crowd]]:
    network = Network(rig, backend=config("udp", "required"))
    made = Crowd(network)
    host = network.add("t1", "--encryption-floor", "required")
    host.wait_ready()
    wait_until(lambda: len(status(host)["peers"]) == PEERS, 30.0, "all peers")
    yield host, made
    made.close()


def test_two_hundred_peers_have_keys_when_all_of_them_ask_and_when_the_host_starts(
    crowd: tuple[Host, Crowd], figures: list[dict[str, object]]
) -> None:
    host, all_of_them = crowd
    key = base64.b64decode(status(host)["encryption"]["public_key"])
    to = (str(host.public_ip), PORT)
    began_s = time.monotonic()
    rounds = 0

    def is_done() -> bool:
        nonlocal rounds
        rounds += 1
        for remote in all_of_them.remotes:
            if remote.made is None:
                remote.ask(to, key)
        all_of_them.serve(REPEAT_S)
        return confirmed(host) == PEERS

    wait_until(is_done, 60.0, "keys with all who ask")
    asked_s = time.monotonic() - began_s
    drops = {name: count for name, count in status(host)["drops"].items() if count}
    agreed = host.space.directory / "state" / "agreed.json"

    def is_written() -> bool:
        all_of_them.serve(0.2)
        return agreed.exists() and len(json.loads(agreed.read_text())["Keys"]) == PEERS

    wait_until(is_written, 30.0, "the list of those it has keys with")
    host.end(signal.SIGKILL)
    for remote in all_of_them.remotes:
        remote.asked = 0
    host.start()
    began_s = time.monotonic()

    def is_back() -> bool:
        all_of_them.serve(0.2)
        return status(host)["state"] == "ready" and confirmed(host) == PEERS

    # It asks each of them itself, before anything is sent to them.
    wait_until(is_back, 60.0, "keys with all after a start")
    assert min(remote.asked for remote in all_of_them.remotes) >= 1
    figures.append(
        {
            "peers": PEERS,
            "all asked, keys after (s)": round(asked_s, 2),
            "rounds": rounds,
            "drops": drops,
            "started, keys after (s)": round(time.monotonic() - began_s, 2),
            "initiations": sum(remote.asked for remote in all_of_them.remotes),
        }
    )
