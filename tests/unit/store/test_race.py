"""Several ways tried beside each other; no clock is asked, only what has begun."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from tests.support.stores import run
from tunneld.store.etcd.race import Address, AllFailedError, Lookup, first, in_turn

NEVER_S = 3600.0


def silent(begun: list[str]) -> Awaitable[str]:
    async def attempt() -> str:
        begun.append("silent")
        await asyncio.Event().wait()
        raise AssertionError

    return attempt()


def test_next_way_is_tried_beside_one_that_says_nothing_which_is_then_given_up() -> None:
    begun: list[str] = []

    async def good() -> str:
        begun.append("good")
        return "good"

    async def main() -> None:
        assert await first([lambda: silent(begun), good], head_start_s=0.0) == "good"
        assert len(asyncio.all_tasks()) == 1

    run(main())
    assert begun == ["silent", "good"]


def test_way_that_fails_costs_no_head_start() -> None:
    async def bad() -> str:
        raise OSError("refused")

    async def good() -> str:
        return "good"

    assert run(first([bad, bad, good], head_start_s=NEVER_S)) == "good"


def test_causes_of_all_are_told_in_the_order_the_ways_were_begun() -> None:
    def bad(text: str, pause_s: float) -> Callable[[], Awaitable[str]]:
        async def attempt() -> str:
            await asyncio.sleep(pause_s)
            raise OSError(text)

        return attempt

    with pytest.raises(AllFailedError) as caught:
        run(first([bad("one", 0.05), bad("two", 0.0)], head_start_s=0.0))
    assert [str(cause) for cause in caught.value.causes] == ["one", "two"]


def test_second_winner_is_given_back() -> None:
    discarded: list[str] = []

    async def main() -> None:
        gate = asyncio.Event()

        def way(name: str) -> Callable[[], Awaitable[str]]:
            async def attempt() -> str:
                await gate.wait()
                return name

            return attempt

        asyncio.get_running_loop().call_later(0.05, gate.set)
        assert await first([way("a"), way("b")], 0.0, discarded.append) == "a"

    run(main())
    assert discarded == ["b"]


def test_families_take_turns_in_the_systems_order() -> None:
    v6 = [Address(socket.AF_INET6, (f"2001:db8::{n}", 1, 0, 0)) for n in range(3)]
    v4 = [Address(socket.AF_INET, (f"192.0.2.{n}", 1)) for n in range(2)]
    assert in_turn([*v6, *v4, v4[0]]) == [v6[0], v4[0], v6[1], v4[1], v6[2]]
    assert in_turn([]) == []


def test_lookup_for_which_there_is_no_thread_fails_and_the_next_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        lookup = Lookup("localhost", 2379)

        def no_thread(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as lacking:
            lacking.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(OSError, match="cannot start a thread to look up a name"):
                await lookup.addresses()
        assert await lookup.addresses()

    run(main())
