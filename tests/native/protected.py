"""Host a with encryption: its peers speak ESP by a second implementation, or plain.

127.0.0.1 is host a, with 10.5.1.0/24 and fd00:5:1::/64. 127.0.0.2 and 127.0.0.3 are `b` and `c`,
with keys and the subnets of their numbers; 127.0.0.4 is `d`, which has none.
"""

from __future__ import annotations

import base64
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.hosts import (
    TIMEOUT_S,
    Host,
    adjacency,
    raw_icmp_socket,
    raw_icmpv6_socket,
    settings,
    udp_socket,
)
from tests.native.packets import inner
from tests.native.second_peer import NETWORK, PORT, Answered, Initiated, Pair, SecondPeer
from tunneld import _native

A: Final = ("127.0.0.1", PORT)
STRANGER: Final = "127.0.0.9"

Case = tuple[str, bytes]
"""A hostile datagram, and the one counter that it moves."""


def subnets(number: int) -> tuple[str, str]:
    return f"10.5.{number}.0/24", f"fd00:5:{number}::/64"


def sealed(name: str, key: str, endpoint: str, subnet: str) -> _native.Adjacency:
    to = adjacency(name, endpoint, 1438, PORT)
    return {**to, "encapsulation": "esp", "of_peer": {"key": key, "subnet": subnet}}


def network(peers: Sequence[SecondPeer], source_check: str = "strict") -> _native.Change:
    """What host a knows: `peers` are `b` and `c`, and are trusted."""
    change: _native.Change = {
        "settings": {**settings(source_check), "icmp_source_v6": "fd00:5:1::"},
        "put_adjacencies": [adjacency("d", "127.0.0.4")],
        "put_entries": [{"prefix": subnet, "target": "local"} for subnet in subnets(1)],
        "put_identities": [],
    }
    change["put_entries"] += [{"prefix": subnet, "target": "d"} for subnet in subnets(4)]
    for number, peer in enumerate(peers, 2):
        endpoint = f"127.0.0.{number}"
        change["put_identities"].append(
            {"key": peer.key, "endpoint": endpoint, "port": PORT, "instance": None}
        )
        for subnet in subnets(number):
            change["put_adjacencies"].append(sealed(subnet, peer.key, endpoint, subnet))
            change["put_entries"].append({"prefix": subnet, "target": subnet})
    return change


class ProtectedHost(Host):
    """Host a. Each worker has a device of its own, of which `device` is the first one's far end."""

    def __init__(
        self,
        space: Namespace,
        directory: Path,
        change: _native.Change,
        *,
        workers: int = 1,
        split: bool = False,
        psk_file: Path | None = None,
        cipher: str = "auto",
        identity: _native.Identity | None = None,
    ) -> None:
        made = identity or _native.Identity.create(directory / f"identity.{os.urandom(4).hex()}")
        self.identity, self.key = made, made.public_key
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(workers)]
        self.devices = [far for far, _ in pairs]
        self.device = self.devices[0]
        with ExitStack() as opened:
            with inside(space):
                icmps = [raw_icmp_socket(), raw_icmpv6_socket()]
                plain = [udp_socket("127.0.0.1", is_shared=True) for _ in range(workers)]
                esp = [udp_socket(*A, is_shared=True) for _ in range(workers)]
                senders = [udp_socket("127.0.0.1", 0) for _ in range(workers - 1)]
            for sock in (*(near for _, near in pairs), *icmps, *plain, *esp, *senders):
                opened.enter_context(sock)
            fds = [[one.fileno()] for one in esp]
            for own, sender in zip(fds[1:], senders, strict=True):
                own.append(sender.fileno())
            self.engine = _native.Engine(
                tun_fds=[near.fileno() for _, near in pairs],
                underlay=[
                    {"ipv4": [one.fileno()], "ipv6": [], "esp_ipv4": own}
                    for one, own in zip(plain, fds, strict=True)
                ],
                icmp_fd=icmps[0].fileno(),
                icmp6_fd=icmps[1].fileno(),
                split=split,
                encryption={
                    "identity": made,
                    "psks": None if psk_file is None else _native.Psks.load(psk_file),
                    "network": NETWORK,
                    "cipher": cipher,
                    "provider": "auto",
                    "instance": b"instance",
                    "claim": list(subnets(1)),
                    "keepalive_s": None,
                },
            )
        for device in self.devices:
            device.settimeout(TIMEOUT_S)
        self.engine.commit(change)

    def __exit__(self, *about: object) -> None:
        self.engine.stop()
        for device in self.devices:
            device.close()

    def wait_for_drops(self, expected: Counter[str]) -> None:
        """Waits until so many packets were dropped, and for no other reasons."""
        wait_until(
            lambda: sum(self.drops().values()) >= expected.total(),
            what=f"drops of {expected}, not {self.drops()}",
            poll_s=0.001,
        )
        assert Counter(self.drops()) == expected

    def state_of(self, peer: SecondPeer) -> _native.Security:
        return next(one for one in self.engine.security() if one["key"] == peer.key)

    def wait_for_news(self, kind: str, peer: SecondPeer) -> None:
        wait_until(
            lambda: any(
                event["kind"] == kind and event["key"] == peer.key
                for event in self.engine.drain_events()
            ),
            what=kind,
        )


class Station:
    """Where a peer sends from and hears: one address, the port of encryption."""

    def __init__(self, space: Namespace, address: str) -> None:
        with inside(space):
            self.socket = udp_socket(address, PORT)
        self.socket.settimeout(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        self.socket.close()

    def send(self, datagram: bytes) -> None:
        self.socket.sendto(datagram, A)

    def next(self, length: int | None = None, kind: int | None = None) -> bytes:
        """Returns the next datagram; of a handshake, the next of that length and type."""
        while True:
            datagram = self.socket.recv(2_000)
            if length is None and datagram[:4] != bytes(4):
                return datagram
            if len(datagram) == length and datagram[4] == kind:
                return datagram

    def newest_initiation(self) -> bytes:
        """Returns the latest initiation that is there, or the next: of one that is repeated, an
        answer to an earlier one is to nothing."""
        newest = self.next(204, 1)
        while self.has_more():
            datagram = self.socket.recv(2_000)
            newest = datagram if len(datagram) == 204 else newest
        return newest

    def has_more(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def first_data(
        self, answer: Callable[[bytes], Answered], heard: bytes = b""
    ) -> tuple[bytes, Pair, bytes]:
        """Answers initiations, the one that was `heard` first, until something comes under the keys
        of one; returns that datagram, what the handshake made, and the packet inside."""
        pairs: dict[int, Pair] = {}
        while True:
            datagram, heard = heard or self.socket.recv(2_000), b""
            if datagram[:4] == bytes(4):
                if len(datagram) == 204:
                    answered = answer(datagram)
                    pairs[answered.pair.into.base] = answered.pair
                    self.send(answered.message)
            elif pair := pairs.get(int.from_bytes(datagram[:4]) & ~0x3F):
                return datagram, pair, pair.into.open(datagram)[2]

    def next_of_any(self) -> bytes:
        """Returns the next datagram, whatever it is."""
        return self.socket.recv(2_000)

    def response(self, begun: Initiated) -> Pair:
        """Returns what a handshake made that was answered here."""
        return begun.finish(self.next(160, 2))


class Honest:
    """What an honest peer sends in between: each packet has another number and is another one."""

    def __init__(self, pair: Pair, source: str, first: int, lane: int = 0) -> None:
        self._pair, self._source, self._lane = pair, source, lane
        self._number = first

    def next(self) -> tuple[bytes, bytes]:
        """Returns a datagram, and the packet in it."""
        payload = b"honest " + self._number.to_bytes(8)
        packet = inner(self._source, "10.5.1.2", payload=payload)
        datagram = self._pair.out.seal(packet, self._number, self._lane)
        self._number += 1
        return datagram, packet


def agreed(host: ProtectedHost, peer: SecondPeer, station: Station, source: str) -> Pair:
    """Shakes hands from `peer`, and has its first packet come."""
    begun = peer.initiate(public_of(host))
    station.send(begun.message)
    pair = station.response(begun)
    packet = inner(source, "10.5.1.2", payload=b"the first one")
    station.send(pair.out.seal(packet, 1))
    assert host.read() == packet
    host.wait_for_news("keys_confirmed", peer)
    return pair


def public_of(host: ProtectedHost) -> bytes:
    return base64.b64decode(host.key)


def assault(
    host: ProtectedHost,
    stations: Sequence[Station],
    cases: Iterable[Case],
    honest: Honest,
    *,
    at_once: int = 10,
) -> None:
    """Sends hostile datagrams from each of `stations`, and an honest one after as many as go
    `at_once`; what the honest one brings comes, nothing else does, and each hostile one moves its
    own counter."""
    cases, before = list(cases), Counter(host.drops())
    for station in stations:
        for start in range(0, len(cases), at_once):
            group = cases[start : start + at_once]
            for _, datagram in group:
                station.send(datagram)
            datagram, packet = honest.next()
            station.send(datagram)
            assert host.read() == packet
            expected = before + Counter(reason for reason, _ in group)
            host.wait_for_drops(expected)
            before = expected
        assert host.reads_nothing()
