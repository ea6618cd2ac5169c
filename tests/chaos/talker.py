"""Sends numbered, checksummed traffic to other containers and judges what comes in.

Run with Python inside a container's namespace; needs nothing but the standard library. Reads one
JSON order a line from stdin, answers each with one JSON line:

    {"do": "talk", "peers": {"2": "10.5.7.2"}}   who is talked to from now on, by number
    {"do": "report", "since": 12.5}              what came in; see `Talker.report`

A datagram holds the numbers of sender and receiver, its own number, when it was sent (on the clock
that all namespaces of a machine share) and a checksum over all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
import zlib
from typing import Any

PORT = 7007
INTERVAL_S = 0.02
TCP_EVERY = 10
"""Every so many intervals a block goes into each TCP connection."""
BLOCK_BYTES = 4096
SIZES = (64, 300, 1200, 1360)
HEAD = struct.Struct("!4sHHQd")
MAGIC = b"CHAO"
PROGRESS_S = 20.0
"""A connection in which nothing is acknowledged for so long is given up, and made again."""


def framed(sender: int, receiver: int, number: int, size: int) -> bytes:
    """Returns a message of `size` bytes whose last four are the checksum of the others."""
    head = HEAD.pack(MAGIC, sender, receiver, number, time.monotonic())
    body = head + bytes((number + i) & 255 for i in range(size - HEAD.size - 4))
    return body + struct.pack("!I", zlib.crc32(body))


def checked(message: bytes) -> tuple[int, int, int, float] | None:
    """Returns sender, receiver, number and time of a message; None if it was changed."""
    if len(message) < HEAD.size + 4:
        return None
    body, check = message[:-4], struct.unpack("!I", message[-4:])[0]
    magic, sender, receiver, number, sent_s = HEAD.unpack_from(body)
    if magic != MAGIC or zlib.crc32(body) != check:
        return None
    return sender, receiver, number, sent_s


class Stream:
    """A TCP connection to a peer that carries numbered blocks; made again whenever it breaks."""

    def __init__(self, own: int, peer: int, address: str) -> None:
        self._own, self._peer, self._address = own, peer, address
        self._number = 0
        self._rest = b""
        self._socket: socket.socket | None = None

    def feed(self) -> None:
        """Puts one more block into the connection unless the one before still waits."""
        if self._socket is None:
            made = socket.socket()
            made.setblocking(False)
            # Not for ever: a peer may have come back knowing nothing of the connection.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PROGRESS_S * 1000))
            with contextlib.suppress(BlockingIOError, OSError):
                made.connect((self._address, PORT))
            self._socket, self._rest = made, b""
        if not self._rest:
            self._number += 1
            self._rest = framed(self._own, self._peer, self._number, BLOCK_BYTES)
        try:
            self._rest = self._rest[self._socket.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Talker:
    """All traffic of one container."""

    def __init__(self, own: int) -> None:
        self.own = own
        self.peers: dict[int, str] = {}
        self.streams: dict[int, Stream] = {}
        self.numbers: dict[int, int] = {}
        self.seen: dict[int, set[int]] = {}
        self.came: dict[int, list[float]] = {}
        self.faults = {"duplicated": 0, "misdelivered": 0, "changed": 0, "blocks_changed": 0}
        self.blocks = 0
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.udp.bind(("", PORT))
        self.udp.setblocking(False)
        self.listener = socket.create_server(("", PORT), backlog=64)
        self.listener.setblocking(False)
        self.incoming: dict[socket.socket, bytes] = {}
        self.turn = 0

    def send(self) -> None:
        self.turn += 1
        for peer, address in self.peers.items():
            self.numbers[peer] = number = self.numbers.get(peer, 0) + 1
            # No route, no neighbour, an ICMP error for an earlier one: then it is simply lost.
            with contextlib.suppress(OSError):
                message = framed(self.own, peer, number, SIZES[number % len(SIZES)])
                self.udp.sendto(message, (address, PORT))
            if self.turn % TCP_EVERY == 0:
                self.streams[peer].feed()

    def receive(self) -> None:
        while True:
            try:
                message = self.udp.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for something that was sent
            self.judge(message)

    def judge(self, message: bytes) -> None:
        inside = checked(message)
        if inside is None:
            self.faults["changed"] += 1
            return
        sender, receiver, number, sent_s = inside
        if receiver != self.own:
            self.faults["misdelivered"] += 1
        elif number in self.seen.setdefault(sender, set()):
            self.faults["duplicated"] += 1
        else:
            self.seen[sender].add(number)
            self.came.setdefault(sender, []).append(sent_s)

    def take(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            del self.incoming[connection]
            connection.close()
            return
        waiting = self.incoming[connection] + data
        while len(waiting) >= BLOCK_BYTES:
            block, waiting = waiting[:BLOCK_BYTES], waiting[BLOCK_BYTES:]
            inside = checked(block)
            if inside is None or inside[1] != self.own:
                self.faults["blocks_changed"] += 1
            self.blocks += 1
        self.incoming[connection] = waiting

    def report(self, since_s: float) -> dict[str, Any]:
        """Returns faults and, for each sender, when what has come was sent, from `since_s` on.

        What was sent before is forgotten, but for its number.
        """
        came = {}
        for sender, times in self.came.items():
            self.came[sender] = [sent_s for sent_s in times if sent_s >= since_s]
            came[str(sender)] = [round(sent_s, 4) for sent_s in self.came[sender]]
        return {
            "now": time.monotonic(),
            "faults": self.faults,
            "blocks": self.blocks,
            "came": came,
            "sent": self.numbers,
        }

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["do"] == "report":
            return self.report(order["since"])
        self.peers = {int(number): address for number, address in order["peers"].items()}
        for stream in self.streams.values():
            stream.close()
        self.streams = {n: Stream(self.own, n, address) for n, address in self.peers.items()}
        return {}

    def run(self) -> None:
        orders = b""
        due_s = time.monotonic()
        while True:
            watched = [sys.stdin.fileno(), self.udp, self.listener, *self.incoming]
            ready = select.select(watched, [], [], max(0.0, due_s - time.monotonic()))[0]
            for item in ready:
                if item is self.udp:
                    self.receive()
                elif item is self.listener:
                    with contextlib.suppress(OSError):
                        connection, _ = self.listener.accept()
                        connection.setblocking(False)
                        self.incoming[connection] = b""
                elif isinstance(item, socket.socket):
                    self.take(item)
                else:
                    data = os.read(sys.stdin.fileno(), 1 << 16)
                    if not data:
                        return
                    orders += data
            while b"\n" in orders:
                line, _, orders = orders.partition(b"\n")
                print(json.dumps(self.obey(json.loads(line))), flush=True)
            if time.monotonic() >= due_s:
                self.send()
                # What was missed while standing still is not made up for.
                due_s = max(due_s + INTERVAL_S, time.monotonic())


if __name__ == "__main__":
    Talker(int(sys.argv[1])).run()
