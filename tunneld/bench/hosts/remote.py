"""`tunneld bench run HOST`: measures between this host and one that serves."""

from __future__ import annotations

import itertools
import math
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from queue import Empty, Queue
from typing import Any, Final

from tunneld.bench import machine
from tunneld.bench.conditions import Watch
from tunneld.bench.document import Document
from tunneld.bench.hosts.challenge import (
    HEAD_BYTES,
    NONCE_BYTES,
    VERDICT_BYTES,
    Secret,
    hello,
    is_proved,
    require_version,
)
from tunneld.bench.hosts.channel import Channel
from tunneld.bench.plan import Scope, Step, steps
from tunneld.bench.progress import Progress
from tunneld.bench.session import Output, Session, about_now, carry_out
from tunneld.bench.sides import Cost, Outcome
from tunneld.bench.take import sample
from tunneld.bench.traffic import NearEnd, Order
from tunneld.errors import BenchError

UP, DOWN = "to the other host", "from the other host"
NEAR, FAR = "near", "far"
_CONNECT_S: Final = 10.0
_PATIENCE_S: Final = 30.0
"""Beyond what an order takes."""
_RESERVE_S: Final = 5.0
_LONGEST_WORDS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the other end serves."""

    host: str
    port: int


def run(place: Place, secret: Secret, scope: Scope, output: Output) -> int:
    """Measures; returns the exit status.

    Raises:
        BenchError: the other end is not there, did not agree, or went away.
    """
    channel, address = admitted(place, secret)
    with closing(channel):
        theirs, most, seconds = _welcome(channel.receive(_CONNECT_S))
        about = about_now(machine.describe() | {f"other_{k}": v for k, v in theirs.items()})
        document = Document("hosts", about, asdict(scope) | asdict(place), None)
        document.notes.append(
            f"the other host allows {most / 1e6:g} Mbit/s for {seconds:g} s: --max-rate, --duration"
        )
        pair = RemotePair(channel, NearEnd(address, place.port), most)
        deadline = time.monotonic() + seconds - _RESERVE_S

        def measure(session: Session) -> None:
            _measure(session, pair, scope, deadline)
            channel.send({"bye": True})

        return carry_out(document, output, measure)


def _welcome(said: Mapping[str, Any]) -> tuple[dict[str, Any], float, float]:
    """Reads what the other end says of itself, allows in bits a second, and for how long.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        most, seconds = float(said["most_bits_per_s"]), float(said["seconds"])
        if not (0 < most < math.inf and 0 < seconds < math.inf):
            raise ValueError
        return dict(said["welcome"]), most, seconds
    except (KeyError, TypeError, ValueError) as error:
        msg = "bench: the other end says nothing of what it allows; expected the same tunneld there"
        raise BenchError(msg) from error


def admitted(place: Place, secret: Secret) -> tuple[Channel, str]:
    """Proves the secret to the other end, and has it prove it too; returns its address with that.

    Raises:
        BenchError: it is not there, speaks otherwise, or one of both does not know the secret.
    """
    where = f"{place.host} port {place.port}"
    try:
        stream = socket.create_connection((place.host, place.port), timeout=_CONNECT_S)
    except OSError as error:
        msg = f"bench: {where}: {error.strerror or error}; expected `tunneld bench serve` there"
        raise BenchError(msg) from error
    try:
        deadline = time.monotonic() + _CONNECT_S
        # At once: another program may say less than a hello, and wait.
        require_version(_heard(stream, HEAD_BYTES, deadline, where), where)
        theirs = _heard(stream, NONCE_BYTES, deadline, where)
        own = os.urandom(NONCE_BYTES)
        nonces = theirs + own
        stream.sendall(hello(own) + secret.key("run", nonces))
        verdict = _heard(stream, VERDICT_BYTES, deadline, where)
        if verdict[0] == 0:
            msg = f"bench: {where} refuses the secret; expected the one it printed last"
            raise BenchError(msg)
        if not is_proved(secret, "serve", nonces, verdict[1:]):
            msg = f"bench: {where} does not know the secret; expected the host that printed it"
            raise BenchError(msg)
    except OSError as error:
        stream.close()
        msg = f"bench: {where}: {error.strerror or error}; it did not agree to a run"
        raise BenchError(msg) from error
    except BenchError:
        stream.close()
        raise
    return Channel(stream, secret, "run", nonces), stream.getpeername()[0]


def _heard(stream: socket.socket, size: int, deadline: float, where: str) -> bytes:
    found = b""
    while len(found) < size:
        stream.settimeout(max(0.001, deadline - time.monotonic()))
        more = stream.recv(size - len(found))
        if not more:
            msg = f"bench: {where} ended the connection; it serves somebody else, or nobody"
            raise BenchError(msg)
        found += more
    return found


class RemotePair:
    """A near end in this process, and a far one by a channel."""

    def __init__(self, channel: Channel, near: NearEnd, most_bits_per_s: float) -> None:
        self._channel = channel
        self._near = near
        self._most = most_bits_per_s
        self._numbers = itertools.count(1)
        self._said: dict[int, Queue[dict[str, Any]]] = {}
        self._over: str | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def measure(self, near: Sequence[Order], far: Sequence[Order]) -> list[Outcome]:
        """Has both carry out their orders, all at once; an outcome for each pair of them.

        Raises:
            BenchError: one end failed.
        """
        longest_s = max(order.duration_s for order in near) + _PATIENCE_S
        numbers = [self._order(order) for order in far]
        for number in numbers:
            self._wait(number, _PATIENCE_S)
        with Watch() as watch:
            ours: list[Queue[dict[str, Any]]] = [Queue() for _ in near]
            for order, queue in zip(near, ours, strict=True):
                bounded = replace(order, most_bits_per_s=self._most)
                threading.Thread(target=self._act, args=(bounded, queue), daemon=True).start()
            seen = [_taken(queue, longest_s) for queue in ours]
        theirs = [self._wait(number, longest_s) for number in numbers]
        assert watch.spent is not None  # noqa: S101 - the watch is over
        cost = Cost(
            cpu_s=watch.spent.usage.machine_cpu_s,
            tunnel_s=0.0,
            conditions=watch.spent.conditions,
        )
        return [
            Outcome(
                near=one["result"],
                far=other["result"],
                costs={NEAR: cost, FAR: Cost.from_json(other["cost"])},
            )
            for one, other in zip(seen, theirs, strict=True)
        ]

    def _act(self, order: Order, queue: Queue[dict[str, Any]]) -> None:
        try:
            queue.put({"result": self._near.carry_out(order)})
        except BenchError as error:
            queue.put({"error": str(error)})

    def _order(self, order: Order) -> int:
        number = next(self._numbers)
        self._said[number] = Queue()
        self._channel.send({"id": number, "order": order.to_json()})
        return number

    def _wait(self, number: int, patience_s: float) -> dict[str, Any]:
        if self._over is not None:
            raise BenchError(self._over)
        return _taken(self._said[number], patience_s)

    def _listen(self) -> None:
        try:
            while True:
                said = self._channel.receive(_PATIENCE_S * 10)
                if "over" in said:
                    self._over = str(said["over"])
                    break
                queue = self._said.get(said.get("id", 0))
                if queue is not None:
                    queue.put(said)
        except (BenchError, ValueError, OSError) as error:
            self._over = str(error)
        for queue in list(self._said.values()):
            queue.put({"error": self._over})


def _taken(queue: Queue[dict[str, Any]], patience_s: float) -> dict[str, Any]:
    try:
        said = queue.get(timeout=patience_s)
    except Empty as error:
        msg = f"bench: an end says nothing for {patience_s:g} s; expected its figures"
        raise BenchError(msg) from error
    if "error" in said:
        # Words of another host, for a terminal.
        words = "".join(letter if letter.isprintable() else "?" for letter in str(said["error"]))
        raise BenchError(words[:_LONGEST_WORDS])
    return said


def _measure(session: Session, pair: RemotePair, scope: Scope, deadline: float) -> None:
    plan = [step for step in steps(scope, (UP, DOWN), {}) if _is_measured(step)]
    progress = Progress(sum(step.seconds for step in plan), len(plan))
    before = 0
    try:
        for step in plan:
            if step.round != before:
                session.checkpoint()
                before = step.round
            if time.monotonic() + step.seconds * 2 >= deadline:
                session.document.notes.append(
                    f"out of time in round {step.round} of {scope.rounds}: the other host's "
                    "--duration is over"
                )
                return
            _take(session, progress, step, pair, scope)
    finally:
        progress.close()


def _is_measured(step: Step) -> bool:
    """A round trip is one of both directions."""
    return step.subject == UP or step.figure not in ("idle", "loaded")


def _take(session: Session, progress: Progress, step: Step, pair: RemotePair, scope: Scope) -> None:
    progress.step(
        f"round {step.round}: {step.figure} {step.subject} {_words(step.case)}", step.seconds
    )
    try:
        seen = sample(pair, step, scope, is_up=step.subject == UP)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        msg = f"bench: the other end's figures cannot be read: {error!r}"
        raise BenchError(msg) from error
    case = {"subject": step.subject, **step.case}
    values = {k: v for k, v in seen.values.items() if not isinstance(v, float) or math.isfinite(v)}
    session.document.add(step.figure, step.round, case, values, seen.conditions)


def _words(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in case.items())
