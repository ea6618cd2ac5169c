"""`tunneld bench serve`: lets one run of another host measure against this one.

It prints a secret that is good for one run, and waits. Who proves it may have this host send, count
and echo, to its own address only, within a time and a rate. Nothing else is listened to.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from typing import Any, Final

from tunneld.bench import machine
from tunneld.bench.conditions import Watch
from tunneld.bench.hosts.challenge import SECRET_BYTES, Secret
from tunneld.bench.hosts.channel import Channel, GoneError
from tunneld.bench.hosts.gate import Gate
from tunneld.bench.sides import Cost
from tunneld.bench.traffic import LONGEST_S, FarEnd, Order
from tunneld.bench.wire import listening
from tunneld.errors import BenchError
from tunneld.lab.main_job import Interrupted, interruptible

PORT: Final = 8474
IDLE_S: Final = 2 * LONGEST_S
"""A run that orders nothing for so long is over."""
MOST_ORDERS: Final = 4
"""At once: a measurement has two at most."""
_TOO_FAST: Final = 1.25
"""A measured rate may be this much above the agreed one: bursts, and short measurements."""


def serve(
    *, address: str | None, port: int, wait_s: float, run_s: float, most_bits_per_s: float
) -> int:
    """Waits for a run and serves it; returns the exit status.

    Raises:
        BenchError: nobody came, or the run did not keep to what was agreed.
    """
    with interruptible():
        try:
            return _serve(address, port, wait_s, run_s, most_bits_per_s)
        except Interrupted as interruption:
            print("tunneld: bench: interrupted", file=sys.stderr)
            return interruption.exit_status


def _serve(
    address: str | None, port: int, wait_s: float, run_s: float, most_bits_per_s: float
) -> int:
    secret = Secret(os.urandom(SECRET_BYTES))
    listener = listening(address, port)
    try:
        port = listener.getsockname()[1]
        gate = Gate(listener, secret)
        _say(f"waiting {wait_s:g} s for one run, at TCP and UDP port {port}")
        _say(f"secret: {secret.text}")
        _say(f"on the other host: tunneld bench run THIS-HOST --port {port}")
        admitted = gate.admit(wait_s)
        _say(f"serving {admitted.address} for at most {run_s:g} s")
        far = FarEnd(listener, admitted.address)
        run = _Run(admitted.channel, far, time.monotonic() + run_s, most_bits_per_s)
        try:
            run.carry_out(run_s)
        finally:
            admitted.channel.close()
    finally:
        listener.close()
    _say("done")
    return 0


class _Run:
    """What one admitted run may have done."""

    def __init__(
        self, channel: Channel, far: FarEnd, deadline: float, most_bits_per_s: float
    ) -> None:
        self._channel = channel
        self._far = far
        self._deadline = deadline
        self._most_bits_per_s = most_bits_per_s
        self._broken: list[str] = []
        self._free = threading.BoundedSemaphore(MOST_ORDERS)

    def carry_out(self, run_s: float) -> None:
        self._channel.send(
            {
                "welcome": machine.describe(),
                "seconds": run_s,
                "most_bits_per_s": self._most_bits_per_s,
            }
        )
        while True:
            left = max(0.0, self._deadline - time.monotonic())
            try:
                said = self._channel.receive(min(IDLE_S, left))
            except GoneError as error:
                if self._broken:
                    raise BenchError(self._broken[0]) from error
                msg = "bench: the run ended early: the other end is gone"
                raise BenchError(msg) from error
            except BenchError as error:
                if time.monotonic() < self._deadline:
                    raise
                msg = f"bench: the run took longer than {run_s:g} s, which `--duration` allows"
                self._tell({"over": msg})
                raise BenchError(msg) from error
            if "bye" in said:
                return
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._work, args=(said,), daemon=True).start()
            else:
                msg = f"bench: more than {MOST_ORDERS} orders at once"
                self._tell({"id": said.get("id"), "error": msg})

    def _work(self, said: dict[str, Any]) -> None:
        try:
            self._answer(said)
        finally:
            self._free.release()

    def _answer(self, said: dict[str, Any]) -> None:
        number = said.get("id")
        try:
            order = self._bounded(Order.from_json(said.get("order") or {}))
            prepared = self._far.prepare(order)
            with Watch() as watch:
                self._tell({"id": number, "ready": True})
                result = self._far.carry_out(order, prepared)
            assert watch.spent is not None  # noqa: S101 - the watch is over
            self._require_rate(order, result)
        except BenchError as error:
            self._tell({"id": number, "error": str(error)})
        else:
            cost = Cost(
                cpu_s=watch.spent.usage.machine_cpu_s,
                tunnel_s=0.0,
                conditions=watch.spent.conditions,
            )
            self._tell({"id": number, "result": result, "cost": cost.to_json()})

    def _bounded(self, order: Order) -> Order:
        most = min(order.most_bits_per_s or self._most_bits_per_s, self._most_bits_per_s)
        left = self._deadline - time.monotonic()
        if order.duration_s > left:
            msg = f"bench: {order.duration_s:g} s more are beyond the time of this run"
            raise BenchError(msg)
        return replace(order, most_bits_per_s=most)

    def _require_rate(self, order: Order, result: dict[str, Any]) -> None:
        """Ends a run that sends faster than agreed."""
        if order.kind == "echo" or order.is_sender:
            return
        # Short bursts within buffers say nothing about a rate.
        rate = result["bytes"] * 8 / max(result["seconds"], order.duration_s)
        if rate > self._most_bits_per_s * _TOO_FAST:
            msg = f"bench: {rate / 1e6:.0f} Mbit/s came, {self._most_bits_per_s / 1e6:.0f} were "
            self._broken.append(msg + "agreed; the run is over")
            self._channel.close()

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(message)
        except BenchError:
            return  # who receives says so


def _say(line: str) -> None:
    print(f"bench: {line}", flush=True)
