"""The loop over executors: in order, again after a refusal, and nobody pays for one peer's trouble.

Executors that are written here, since a real one cannot be told when to refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from tests.unit.host.conftest import eventually
from tunneld.daemon import reconcile
from tunneld.daemon.reconcile import Reconciler
from tunneld.errors import DeviceLostError, EngineError, HostError, PeerRouteError
from tunneld.fib.state import EngineState, HostState, State

DESIRED = State(engine=EngineState(), host=HostState())


class Part:
    """A part of the state that is 1 when it is as it must be."""

    def __init__(self, name: str, told: list[str], refusal: Exception | None = None) -> None:
        self._name, self._told, self.refusal = name, told, refusal
        self.value = 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def observe(self) -> int:
        for _ in range(5):  # as a look at the kernel lets others go on
            await asyncio.sleep(0)
        self._told.append(f"{self._name} observed")
        return self.value

    def difference(self, desired: State, actual: int) -> int:
        assert desired is DESIRED
        return 1 - actual

    async def apply(self, change: int) -> None:
        self._told.append(f"{self._name} applied")
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.refusal is not None:
            raise self.refusal
        self.value += change


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "RETRY_S", 0.001)


def run(reconciler: Reconciler, work: Callable[[], Awaitable[None]]) -> None:
    """Wakes the loop and lets it run while `work` does."""

    async def main() -> None:
        running = asyncio.create_task(reconciler.run())
        reconciler.wake()
        try:
            await work()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    await eventually(condition, "what the loop comes to", timeout_s=30.0)


def test_each_executor_is_done_with_before_the_next_is_looked_at() -> None:
    told: list[str] = []
    parts = [Part(name, told) for name in ("engine", "host", "third")]
    reconciler = Reconciler(parts, lambda: DESIRED)
    run(reconciler, reconciler.settled)
    assert told == [f"{name} {what}" for name in ("engine", "host", "third") for what in
                    ("observed", "applied")]  # fmt: skip


def test_what_is_as_it_must_be_is_left_alone() -> None:
    told: list[str] = []
    part = Part("host", told)
    part.value = 1
    reconciler = Reconciler([part], lambda: DESIRED)
    run(reconciler, reconciler.settled)
    assert told == ["host observed"]


def test_trouble_of_one_peer_withholds_nothing_from_others_and_is_tried_again() -> None:
    told: list[str] = []
    host, third = Part("host", told, PeerRouteError("10.5.2.0/24 is taken")), Part("third", told)
    reconciler = Reconciler([host, third], lambda: DESIRED)

    async def work() -> None:
        await reconciler.settled()
        assert (host.value, third.value) == (0, 1)
        host.refusal = None
        await until(lambda: host.value == 1)
        await until(lambda: reconciler.problem is None)

    run(reconciler, work)


def test_several_peers_trouble_is_all_told() -> None:
    told: list[str] = []
    parts = [Part(name, told, PeerRouteError(f"of {name}")) for name in ("host", "third")]
    reconciler = Reconciler(parts, lambda: DESIRED)

    async def work() -> None:
        await until(lambda: reconciler.problem == "of host; of third")

    run(reconciler, work)


@pytest.mark.parametrize(
    "refusal", [EngineError("no"), HostError("no"), OSError(24, "no descriptors")]
)
def test_refusal_is_told_keeps_the_rest_waiting_and_is_tried_again(refusal: Exception) -> None:
    told: list[str] = []
    engine, host = Part("engine", told, refusal), Part("host", told)
    reconciler = Reconciler([engine, host], lambda: DESIRED)

    async def work() -> None:
        await until(lambda: "no" in str(reconciler.problem))
        assert "host observed" not in told
        engine.refusal = None
        await reconciler.settled()
        assert (engine.value, host.value) == (1, 1)
        await until(lambda: reconciler.problem is None)

    run(reconciler, work)


def test_lost_device_ends_the_loop() -> None:
    reconciler = Reconciler([Part("host", [], DeviceLostError("gone"))], lambda: DESIRED)

    async def main() -> None:
        reconciler.wake()
        await reconciler.run()

    with pytest.raises(DeviceLostError):
        asyncio.run(main())


def test_what_happens_during_a_change_has_another_look_before_all_is_settled() -> None:
    told: list[str] = []
    part = Part("host", told)
    reconciler = Reconciler([part], lambda: DESIRED)

    async def happen() -> None:
        part.meanwhile = None
        reconciler.wake()

    part.meanwhile = happen
    run(reconciler, reconciler.settled)
    assert told == ["host observed", "host applied", "host observed"]


def test_an_answer_of_the_kernel_shows_that_a_long_change_does_not_hang() -> None:
    part = Part("host", [])
    reconciler = Reconciler([part], lambda: DESIRED)
    seen: list[float | None] = []

    async def answers() -> None:
        seen.append(reconciler.busy_since_s)
        begun_s = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() > begun_s)
        reconciler.moves_on()
        seen.append(reconciler.busy_since_s)

    part.meanwhile = answers
    run(reconciler, reconciler.settled)
    first, later = seen
    assert first is not None
    assert later is not None
    assert later > first
    reconciler.moves_on()
    assert reconciler.busy_since_s is None


def test_nothing_is_looked_at_while_nothing_must_be() -> None:
    told: list[str] = []
    asked: list[None] = []

    def desired() -> None:
        asked.append(None)

    reconciler = Reconciler([Part("host", told)], desired)
    run(reconciler, lambda: until(lambda: bool(asked)))
    assert told == []
