"""Traffic between containers, as a program of its own: it runs inside network namespaces.

Every receiver says `listening` once it can be sent to, and writes what it saw as JSON lines.
Times are of the monotonic clock, which all namespaces of a machine share.

It is started hundreds of times: modules that take long to load are loaded by those who need them.
"""

from __future__ import annotations

import json
import math
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from types import FrameType

CHUNK_BYTES = 1 << 18
RECEIVE_BUFFER_BYTES = 8 << 20
PROBE = struct.Struct("!Q")
_SO_RCVBUFFORCE = 33


def create_server(port: int, backlog: int | None = None) -> socket.socket:
    """Returns a TCP server for both families."""
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True
    )


def open_receiver(port: int) -> socket.socket:
    """Returns a bound UDP socket for both families, with room for all that comes while it waits."""
    receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    receiver.bind(("::", port))
    return receiver


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def receive_stream(port: int) -> None:
    """Takes one TCP connection to its end and tells the hash of what came."""
    import hashlib

    with create_server(port) as server:
        say(state="listening")
        connection, _ = server.accept()
    digest, received_bytes, started = hashlib.sha256(), 0, time.monotonic()
    with connection:
        while block := connection.recv(CHUNK_BYTES):
            digest.update(block)
            received_bytes += len(block)
    seconds = time.monotonic() - started
    say(state="done", bytes=received_bytes, sha256=digest.hexdigest(), seconds=seconds)


def send_stream(address: str, port: int, size_bytes: int, seed: int) -> None:
    """Sends bytes that no compression or repetition could fake, and tells their hash."""
    import hashlib
    import random

    source, digest, left = random.Random(seed), hashlib.sha256(), size_bytes
    with socket.create_connection((address, port), timeout=20) as connection:
        connection.settimeout(120)
        while left:
            block = source.randbytes(min(left, CHUNK_BYTES))
            digest.update(block)
            connection.sendall(block)
            left -= len(block)
    say(state="done", bytes=size_bytes, sha256=digest.hexdigest())


def receive_probes(port: int) -> None:
    """Writes down the number and the arrival of each probe until it is ended."""
    with open_receiver(port) as receiver:
        say(state="listening")
        while True:
            (number,) = PROBE.unpack(receiver.recv(PROBE.size))
            say(number=number, at_s=time.monotonic())


def send_probes(address: str, port: int, rate_hz: float) -> None:
    """Sends numbered probes until SIGTERM, at fixed times or, once it was held up, at later ones.

    It never catches up: a burst would fill queues, and what is lost there says nothing.
    """
    ended = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    due_s, number, refused = time.monotonic(), 0, 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        say(state="sending")
        while not ended:
            try:
                sender.sendto(PROBE.pack(number), (address, port))
            except OSError:
                refused += 1
            number += 1
            due_s = max(due_s + 1 / rate_hz, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
    say(state="done", sent=number, refused=refused)


def receive_sources(port: int) -> None:
    """Writes down who each datagram says it comes from, with the word it carries."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", port))
        say(state="listening")
        while True:
            payload, (source, _) = receiver.recvfrom(2048)
            say(word=payload.decode(), source=source)


def send_word(address: str, port: int, word: str, source: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(word.encode(), (address, port))


def tell_sources(port: int) -> None:
    """Answers whoever asks, by TCP or UDP, with the address it came from and what it said."""
    with (
        socket.create_server(("0.0.0.0", port), backlog=64) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("0.0.0.0", port))
        say(state="listening")
        while True:
            for ready in select.select([server, receiver], [], [])[0]:
                if ready is receiver:
                    payload, (source, source_port) = receiver.recvfrom(65535)
                    receiver.sendto(answer(source, payload), (source, source_port))
                else:
                    connection, (source, _) = server.accept()
                    with connection:
                        connection.sendall(answer(source, connection.recv(65535)))


def answer(source: str, payload: bytes) -> bytes:
    import hashlib

    return json.dumps({"source": source, "sha256": hashlib.sha256(payload).hexdigest()}).encode()


def ask(protocol: str, address: str, port: int, size_bytes: int, timeout_s: float) -> None:
    """Sends one message to `tell_sources` and tells its answer; fails when none comes in time."""
    import hashlib
    import random

    payload = random.Random(size_bytes).randbytes(size_bytes)
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as asking:
        asking.settimeout(timeout_s)
        asking.connect((address, port))
        asking.sendall(payload)
        told = json.loads(answer_to(asking, payload, timeout_s))
    if told["sha256"] != hashlib.sha256(payload).hexdigest():
        raise ValueError(f"{size_bytes} bytes arrived changed")
    say(source=told["source"])


def answer_to(asking: socket.socket, payload: bytes, timeout_s: float) -> bytes:
    """Returns what came; a datagram is sent again each second, as TCP does with its segments."""
    if asking.type == socket.SOCK_DGRAM:
        for _ in range(math.ceil(timeout_s) - 1):
            if select.select([asking], [], [], 1.0)[0]:
                break
            asking.sendall(payload)
    return asking.recv(65535)


SIDES: dict[str, tuple[Callable[..., None], tuple[Callable[[str], object], ...]]] = {
    "receive-stream": (receive_stream, (int,)),
    "receive-probes": (receive_probes, (int,)),
    "receive-sources": (receive_sources, (int,)),
    "tell-sources": (tell_sources, (int,)),
    "send-stream": (send_stream, (str, int, int, int)),
    "send-probes": (send_probes, (str, int, float)),
    "send-word": (send_word, (str, int, str, str)),
    "ask": (ask, (str, str, int, int, float)),
}
"""By the name on the command line: what to do, and how its arguments are read."""


def main() -> None:
    """Reads the command line and runs one side of one kind of traffic."""
    side, readers = SIDES[sys.argv[1]]
    side(*(read(text) for read, text in zip(readers, sys.argv[2:], strict=True)))


if __name__ == "__main__":
    main()
