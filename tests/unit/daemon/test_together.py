"""Loops side by side: the first error ends all, and a stop is heard whatever else happens."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tunneld.daemon.together import together


class MovedError(Exception):
    """Whatever ends a loop and is answered by another try."""


async def _for_ever(log: list[str], name: str, farewell_s: float = 0.0) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(farewell_s)
        log.append(name)


async def _raise() -> None:
    await asyncio.sleep(0)
    raise MovedError


def test_the_first_error_ends_all_and_comes_when_all_have_ended() -> None:
    log: list[str] = []

    async def main() -> None:
        with pytest.raises(MovedError):
            await together(_for_ever(log, "one", 0.01), _raise(), _for_ever(log, "two"))
        assert sorted(log) == ["one", "two"]

    asyncio.run(main())


def test_a_stop_that_comes_with_an_error_is_not_forgotten() -> None:
    async def main() -> None:
        is_going, may_go = asyncio.Event(), asyncio.Event()
        tries = 0

        async def is_taken_down() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                is_going.set()
                await may_go.wait()

        async def tries_for_ever() -> None:
            nonlocal tries
            while True:
                tries += 1
                try:
                    await together(is_taken_down(), _raise())
                except MovedError:
                    continue

        work = asyncio.create_task(tries_for_ever())
        # The error has come, and the data path is being taken down when the stop comes.
        await is_going.wait()
        work.cancel()
        await asyncio.sleep(0)
        may_go.set()
        done, _ = await asyncio.wait([work], timeout=10)
        assert done
        assert work.cancelled()
        assert tries == 1

    asyncio.run(main())


def test_an_error_on_the_way_to_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def fails_at_its_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise MovedError("the device would not go")

    async def main() -> None:
        work = asyncio.create_task(together(fails_at_its_end()))
        await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "the device would not go" in caplog.text


def test_all_return_when_all_have_returned() -> None:
    async def nothing() -> None:
        return

    asyncio.run(together(nothing(), nothing()))
