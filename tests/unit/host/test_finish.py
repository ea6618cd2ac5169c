from __future__ import annotations

import asyncio

import pytest

from tunneld.host.finish import finish


def test_result_and_error_come_through() -> None:
    async def fails() -> None:
        raise LookupError("no")

    async def work() -> None:
        assert await finish(asyncio.sleep(0, "value")) == "value"
        with pytest.raises(LookupError, match="no"):
            await finish(fails())

    asyncio.run(work())


@pytest.mark.parametrize("fails", [False, True])
def test_cancelled_caller_waits_for_the_end_of_the_step(fails: bool) -> None:
    async def work() -> list[str]:
        said = []
        begun, gate = asyncio.Event(), asyncio.Event()

        async def step() -> None:
            said.append("begun")
            begun.set()
            await gate.wait()
            said.append("ended")
            if fails:
                raise LookupError("no")

        caller = asyncio.create_task(finish(step()))
        await begun.wait()
        caller.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not caller.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return said

    assert asyncio.run(work()) == ["begun", "ended"]
