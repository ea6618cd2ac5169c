"""One end of a measurement: opens sockets, sends, counts, echoes. An end only does as it is told.

The far end waits for connections that begin with the token of the measurement; the near end makes
them. UDP sockets are connected to the peer, so that what strangers send never gets to a counter or
an echo. Every order is bounded in time and size, whoever gave it.
"""

from __future__ import annotations

import hmac
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final

from tunneld.bench import native
from tunneld.errors import BenchError

TOKEN_BYTES: Final = 8
HELLO_BYTES: Final = 16
"""First on a stream: the token, and which stream it is."""
LONGEST_S: Final = 60.0
MOST_STREAMS: Final = 64
SMALLEST_BYTES: Final = 16
LARGEST_BYTES: Final = 65_507
SILENCE_S: Final = 0.5
_CONNECT_S: Final = 10.0
_HELLO_S: Final = 2.0
_KNOCK_S: Final = 0.1
_BUFFER_BYTES: Final = 8 << 20
_READY: Final = b"ready"
_MAX_PACING_RATE: Final = 47
"""SO_MAX_PACING_RATE, which the module socket does not name. Source: asm-generic/socket.h."""

Kind = str
KINDS: Final = ("stream", "datagrams", "echo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one end is to do."""

    kind: Kind
    is_sender: bool
    """Of an echo: who asks."""
    token: bytes
    streams: int = 1
    sizes: Sequence[int] = (64,)
    per_second: float | None = None
    most_bits_per_s: float | None = None
    """What the other host allows; None: all that goes."""
    duration_s: float = 1.0
    count: int = 1_000_000
    interval_s: float = 0.002
    patience_s: float = 1.0

    def __post_init__(self) -> None:
        """Checks every bound.

        Raises:
            BenchError: one is not kept; the message names it.
        """
        rules = (
            ("kind", self.kind, self.kind in KINDS),
            ("token", f"of {len(self.token)} bytes", len(self.token) == TOKEN_BYTES),
            ("streams", self.streams, 1 <= self.streams <= MOST_STREAMS),
            ("sizes", list(self.sizes), _are_sizes(self.sizes)),
            ("per_second", self.per_second, self.per_second is None or self.per_second > 0),
            (
                "most_bits_per_s",
                self.most_bits_per_s,
                self.most_bits_per_s is None or self.most_bits_per_s > 0,
            ),
            ("duration_s", self.duration_s, 0 < self.duration_s <= LONGEST_S),
            ("count", self.count, self.count >= 1),
            ("interval_s", self.interval_s, 0 <= self.interval_s <= 1),
            ("patience_s", self.patience_s, 0 < self.patience_s <= LONGEST_S),
        )
        for name, value, is_kept in rules:
            if not is_kept:
                msg = f"bench: an order with {name} {value} is beyond what an end does"
                raise BenchError(msg)

    @property
    def paced_per_second(self) -> float | None:
        """Datagrams a second, within what is allowed."""
        if self.most_bits_per_s is None:
            return self.per_second
        most = self.most_bits_per_s / 8 / (sum(self.sizes) / len(self.sizes))
        return most if self.per_second is None else min(most, self.per_second)

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"token": self.token.hex(), "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Order:
        """Reads an order that another process gave.

        Raises:
            BenchError: it is none.
        """
        try:
            given = dict(fields)
            given["token"] = bytes.fromhex(given["token"])
            given["sizes"] = tuple(int(size) for size in given["sizes"])
            given["is_sender"] = bool(given["is_sender"])
            for name in ("duration_s", "interval_s", "patience_s"):
                given[name] = float(given[name])
            for name in ("streams", "count"):
                given[name] = int(given[name])
            for name in ("per_second", "most_bits_per_s"):
                if given[name] is not None:
                    given[name] = float(given[name])
            return cls(**given)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            msg = f"bench: an order that cannot be read: {error}"
            raise BenchError(msg) from error


def _are_sizes(sizes: Sequence[int]) -> bool:
    return 1 <= len(sizes) <= 64 and all(SMALLEST_BYTES <= s <= LARGEST_BYTES for s in sizes)


class FarEnd:
    """Waits for the near end at one port, for TCP and UDP alike."""

    def __init__(self, listener: socket.socket, peer: str | None = None) -> None:
        """`listener` is a TCP socket that listens; `peer` the only address that is let in."""
        self._listener = listener
        self._address = listener.getsockname()
        self._peer = peer

    @property
    def port(self) -> int:
        return int(self._address[1])

    def prepare(self, order: Order) -> socket.socket | None:
        """Opens what must be there before the near end begins.

        Raises:
            BenchError: the port is in use.
        """
        return None if order.kind == "stream" else self._udp()

    def carry_out(self, order: Order, prepared: socket.socket | None) -> dict[str, Any]:
        """Waits for the near end, then does as told; returns what it saw.

        Raises:
            BenchError: the near end did not come, or went away.
        """
        with ExitStack() as stack:
            if prepared is None:
                streams = [stack.enter_context(closing(s)) for s in self._accept(order)]
                return _streams(order, streams)
            stack.enter_context(closing(prepared))
            self._await_knock(order, prepared)
            return _datagrams(order, prepared)

    def _udp(self) -> socket.socket:
        opened = socket.socket(self._listener.family, socket.SOCK_DGRAM)
        try:
            _enlarge(opened)
            opened.bind(self._address)
        except OSError as error:
            opened.close()
            msg = f"bench: UDP port {self.port} cannot be used: {error.strerror}; another is "
            raise BenchError(f"{msg}chosen by --port") from error
        return opened

    def _accept(self, order: Order) -> list[socket.socket]:
        """Takes as many streams as ordered, and turns strangers away."""
        found: list[socket.socket] = []
        deadline = time.monotonic() + _CONNECT_S
        try:
            while len(found) < order.streams:
                self._listener.settimeout(max(0.001, deadline - time.monotonic()))
                stream, address = self._listener.accept()
                if self._is_peer(address[0]) and _said_hello(stream, order.token):
                    found.append(stream)
                else:
                    stream.close()
                if time.monotonic() >= deadline:
                    raise TimeoutError
        except OSError as error:
            for stream in found:
                stream.close()
            msg = f"bench: {len(found)} of {order.streams} TCP streams came within {_CONNECT_S:g} s"
            raise BenchError(msg) from error
        return found

    def _await_knock(self, order: Order, opened: socket.socket) -> None:
        deadline = time.monotonic() + _CONNECT_S
        while (left := deadline - time.monotonic()) > 0:
            opened.settimeout(left)
            try:
                said, address = opened.recvfrom(HELLO_BYTES)
            except OSError:
                continue
            if self._is_peer(address[0]) and hmac.compare_digest(said, order.token):
                opened.connect(address)
                opened.send(order.token + _READY)
                return
        msg = f"bench: no UDP came to port {self.port} within {_CONNECT_S:g} s; a firewall between?"
        raise BenchError(msg)

    def _is_peer(self, address: str) -> bool:
        return self._peer is None or address == self._peer


class NearEnd:
    """Makes the connections to a far end."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)

    def carry_out(self, order: Order) -> dict[str, Any]:
        """Connects, then does as told; returns what it saw.

        Raises:
            BenchError: the far end does not answer, or went away.
        """
        with ExitStack() as stack:
            if order.kind == "stream":
                streams = [
                    stack.enter_context(closing(self._stream(order, number)))
                    for number in range(order.streams)
                ]
                return _streams(order, streams)
            return _datagrams(order, stack.enter_context(closing(self._knock(order))))

    def _stream(self, order: Order, number: int) -> socket.socket:
        try:
            stream = socket.create_connection(self._to, timeout=_CONNECT_S)
            _choose_congestion_control(stream)
            stream.sendall(order.token + number.to_bytes(HELLO_BYTES - TOKEN_BYTES))
        except OSError as error:
            raise BenchError(self._unreachable("TCP", error)) from error
        return stream

    def _knock(self, order: Order) -> socket.socket:
        """Opens a UDP socket that the far end knows: what is lost is sent once more."""
        family = socket.getaddrinfo(*self._to, type=socket.SOCK_DGRAM)[0][0]
        opened = socket.socket(family, socket.SOCK_DGRAM)
        deadline = time.monotonic() + _CONNECT_S
        try:
            _enlarge(opened)
            opened.connect(self._to)
            opened.settimeout(_KNOCK_S)
            while time.monotonic() < deadline:
                try:
                    opened.send(order.token)
                    if opened.recv(HELLO_BYTES) == order.token + _READY:
                        return opened
                except (TimeoutError, ConnectionRefusedError):
                    continue
        except OSError as error:
            opened.close()
            raise BenchError(self._unreachable("UDP", error)) from error
        opened.close()
        raise BenchError(self._unreachable("UDP", TimeoutError(0, "no answer")))

    def _unreachable(self, kind: str, error: OSError) -> str:
        said = error.strerror or str(error)
        host, port = self._to
        return f"bench: {kind} to {host} port {port}: {said}; expected the other end there"


def _said_hello(stream: socket.socket, token: bytes) -> bool:
    stream.settimeout(_HELLO_S)
    said = b""
    try:
        while len(said) < HELLO_BYTES:
            more = stream.recv(HELLO_BYTES - len(said))
            if not more:
                return False
            said += more
    except OSError:
        return False
    return hmac.compare_digest(said[:TOKEN_BYTES], token)


def _streams(order: Order, streams: Sequence[socket.socket]) -> dict[str, Any]:
    numbers = [stream.fileno() for stream in streams]
    try:
        if order.is_sender:
            _pace(order, streams)
            bytes_, seconds = native.load_send_streams(numbers, duration_s=order.duration_s)
        else:
            longest_s = order.duration_s + _CONNECT_S
            bytes_, seconds = native.load_receive_streams(numbers, longest_s=longest_s)
    except OSError as error:
        msg = f"bench: the other end went away in the middle of a TCP transfer: {error.strerror}"
        raise BenchError(msg) from error
    return {"bytes": sum(bytes_), "seconds": seconds, "bytes_by_stream": bytes_}


def _pace(order: Order, streams: Sequence[socket.socket]) -> None:
    """Has the kernel send no faster than is allowed."""
    if order.most_bits_per_s is not None:
        rate = min(int(order.most_bits_per_s / 8 / len(streams)), (1 << 32) - 2)
        for stream in streams:
            stream.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, max(1, rate))


def _datagrams(order: Order, opened: socket.socket) -> dict[str, Any]:
    number = opened.fileno()
    try:
        if order.kind == "echo":
            return _echo(order, number)
        if order.is_sender:
            sent = native.load_send(
                number,
                token=order.token,
                sizes=list(order.sizes),
                per_second=order.paced_per_second,
                duration_s=order.duration_s,
            )
            return dict(sent)
        received = native.load_receive(
            number,
            token=order.token,
            timeout_s=order.duration_s + _CONNECT_S,
            silence_s=SILENCE_S,
            longest_s=order.duration_s + _CONNECT_S,
        )
        return dict(received)
    except OSError as error:
        msg = f"bench: UDP measurement ended early: {error.strerror}"
        raise BenchError(msg) from error


def _echo(order: Order, number: int) -> dict[str, Any]:
    if not order.is_sender:
        longest_s = order.duration_s + _CONNECT_S
        # It ends soon after the last question, or when questions never came.
        silence_s = max(order.interval_s, order.patience_s) + SILENCE_S
        answered = native.load_echo(
            number, token=order.token, silence_s=silence_s, longest_s=longest_s
        )
        return {"answered": answered}
    sent, nanoseconds = native.load_round_trips(
        number,
        token=order.token,
        count=order.count,
        interval_s=order.interval_s,
        patience_s=order.patience_s,
        duration_s=order.duration_s,
    )
    return {"sent": sent, "round_trips_ns": nanoseconds}


def _enlarge(opened: socket.socket) -> None:
    """A receiver that waits for its turn on the processor is not to be what loses datagrams."""
    for forced, plain in ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF)):  # SO_*BUFFORCE
        try:
            opened.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)


def _choose_congestion_control(stream: socket.socket) -> None:
    """Cubic on every machine, so that figures of two can be compared."""
    try:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    except OSError:
        return  # a kernel without it has its own
