"""Both ends of an overlay as processes in its containers, ordered by lines of JSON."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import Empty, Queue
from typing import Any, Final

from tunneld.bench.conditions import Watch
from tunneld.bench.sides import Cost, Outcome
from tunneld.bench.traffic import Order
from tunneld.errors import BenchError
from tunneld.lab import namespaces
from tunneld.lab.store import environment

MACHINE: Final = "machine"
_PATIENCE_S: Final = 60.0


class Agent:
    """One end in a namespace."""

    def __init__(self, namespace: str, *argv: str) -> None:
        self._process = subprocess.Popen(
            namespaces.inside(namespace, sys.executable, "-P", "-m", "tunneld.bench.agent", *argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
            start_new_session=True,
        )
        self._said: dict[int | None, Queue[dict[str, Any]]] = {None: Queue()}
        self._numbers = itertools.count(1)
        threading.Thread(target=self._listen, daemon=True).start()

    def order(self, order: Order, **more: Any) -> int:  # noqa: ANN401 - of JSON
        """Gives an order; returns its number."""
        number = next(self._numbers)
        self._said[number] = Queue()
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(json.dumps({"id": number, "order": order.to_json()} | more))
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except OSError as error:
            msg = f"bench: an end of the measurement is gone: {error.strerror}"
            raise BenchError(msg) from error
        return number

    def wait(self, number: int | None, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
        """Waits for what it says next about an order, or of itself.

        Raises:
            BenchError: it failed, ended, or says nothing.
        """
        try:
            said = self._said[number].get(timeout=patience_s)
        except Empty as error:
            msg = f"bench: an end of the measurement says nothing for {patience_s:g} s"
            raise BenchError(msg) from error
        if "error" in said:
            raise BenchError(said["error"])
        return said

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101 - they are pipes
        namespaces.stop([self._process])  # type: ignore[list-item]
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                continue

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                self._said[said.get("id")].put(said)
        except ValueError:
            pass  # closed, or killed in the middle of a line
        for waiting in list(self._said.values()):
            waiting.put({"error": "bench: an end of the measurement ended"})


class LocalPair:
    """Both ends of one overlay."""

    def __init__(self, near: str, far: str, address: str, pids: Sequence[int]) -> None:
        """`near` and `far` are namespaces, `pids` the tunnel's processes."""
        self._pids = pids
        self._address = address
        self._near = Agent(near)
        self._far = Agent(far, address)
        self._port = 0

    def wait_ready(self) -> None:
        self._port = self._far.wait(None)["port"]

    def measure(self, near: Sequence[Order], far: Sequence[Order]) -> list[Outcome]:
        """Has both carry out their orders, all at once; an outcome for each pair of them.

        Raises:
            BenchError: one end failed.
        """
        far_numbers = [self._far.order(order) for order in far]
        for number in far_numbers:
            self._far.wait(number)
        with Watch(self._pids) as watch:
            to = {"host": self._address, "port": self._port}
            near_numbers = [self._near.order(order, **to) for order in near]
            seen = [
                (self._near.wait(one)["result"], self._far.wait(other)["result"])
                for one, other in zip(near_numbers, far_numbers, strict=True)
            ]
        assert watch.spent is not None  # noqa: S101 - the watch is over
        usage = watch.spent.usage
        cost = Cost(
            cpu_s=usage.machine_cpu_s,
            tunnel_s=usage.tunnel_cpu_s,
            conditions=watch.spent.conditions,
        )
        return [Outcome(near=one, far=other, costs={MACHINE: cost}) for one, other in seen]

    def close(self) -> None:
        self._near.close()
        self._far.close()
