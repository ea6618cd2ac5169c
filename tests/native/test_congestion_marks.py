"""Congestion marks of the underlay reach containers, as RFC 6040 has it where a tunnel ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from testbed.netns import Namespace, inside
from tests.native.hosts import PORT, Host, adjacency, settings, udp_socket
from tests.native.packets import inner

NOT_ECT, ECT1, ECT0, CE = range(4)
SOL_UDP, UDP_SEGMENT = 17, 103
DSCP = 0x2E << 2


def marked(ecn: int, number: int = 0, *, ttl: int = 64) -> bytes:
    """Returns an inner packet with a DSCP and a mark, its header checksum right."""
    packet = bytearray(inner("10.5.2.2", "10.5.1.2", ttl=ttl, payload=bytes([number]) * 60))
    packet[1] = DSCP | ecn
    packet[10:12] = bytes(2)
    total = sum(int.from_bytes(packet[place : place + 2], "big") for place in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = (0xFFFF - (total & 0xFFFF) - (total >> 16)).to_bytes(2, "big")
    return bytes(packet)


@dataclass
class Ends:
    """A host, the socket of its peer, and where that sends to."""

    host: Host
    peer: socket.socket
    address: tuple[str, int]

    def send(self, mark: int, payload: bytes, segment_len: int = 0) -> None:
        if self.peer.family == socket.AF_INET:
            self.peer.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, DSCP | mark)
        else:
            self.peer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, DSCP | mark)
        self.peer.setsockopt(SOL_UDP, UDP_SEGMENT, segment_len)
        self.peer.sendto(payload, self.address)


@pytest.fixture(params=[("127.0.0.1", "127.0.0.2"), ("::1", "::1")], ids=["IPv4", "IPv6"])
def ends(space: Namespace, request: pytest.FixtureRequest) -> Iterator[Ends]:
    here, there = request.param
    with ExitStack() as opened:
        with inside(space):
            underlay = opened.enter_context(udp_socket(here))
            peer = opened.enter_context(udp_socket(there, 0))
        host = opened.enter_context(Host(space, underlay=[underlay]))
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", there)],
                "put_entries": [
                    {"prefix": "10.5.1.0/24", "target": "local"},
                    {"prefix": "10.5.2.0/24", "target": "b"},
                ],
            }
        )
        yield Ends(host, peer, (here, PORT))


# RFC 6040 figure 4: outer, inner, what goes on.
PASSED_ON = [
    *((NOT_ECT, inner_mark, inner_mark) for inner_mark in (NOT_ECT, ECT0, ECT1, CE)),
    *((ECT0, inner_mark, inner_mark) for inner_mark in (NOT_ECT, ECT0, ECT1, CE)),
    *((ECT1, inner_mark, inner_mark) for inner_mark in (NOT_ECT, ECT1, CE)),
    (ECT1, ECT0, ECT1),
    *((CE, inner_mark, CE) for inner_mark in (ECT0, ECT1, CE)),
]


def test_marks_on_the_way_reach_the_container(ends: Ends) -> None:
    for outer, mark, expected in PASSED_ON:
        ends.send(outer, marked(mark))
        assert ends.host.read() == marked(expected, ttl=63), (outer, mark)
    assert ends.host.drops() == {}


def test_a_mark_that_the_sender_would_not_understand_is_a_loss(ends: Ends) -> None:
    ends.send(CE, marked(NOT_ECT))
    ends.host.wait_for_drop("unexpected_congestion_mark")
    assert ends.host.drops() == {"unexpected_congestion_mark": 1}


def test_every_datagram_of_a_marked_train_is_marked_and_no_other(ends: Ends) -> None:
    size = len(marked(ECT0))
    for outer in (ECT0, CE, ECT0, CE):
        ends.send(outer, b"".join(marked(ECT0, number) for number in range(20)), size)
    for outer in (ECT0, CE, ECT0, CE):
        got = [ends.host.read() for _ in range(20)]
        assert got == [marked(outer, number, ttl=63) for number in range(20)]
    assert ends.host.drops() == {}
