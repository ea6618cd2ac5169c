"""What one data path leaves for the next, and that none of it stays when there is no next."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tunneld.daemon.datapath import Handover
from tunneld.errors import HostError
from tunneld.host.actuator import Actuator


class Recorder:
    """Stands for what holds things in the operating system; notes how it is told to let go."""

    def __init__(self, log: list[str], name: str, fault: Exception | None = None) -> None:
        self._log, self._name, self._fault = log, name, fault

    async def close(self, *, hands_over: bool = False) -> None:
        self._log.append(f"{self._name} {'hands over' if hands_over else 'ends'}")
        if self._fault is not None:
            raise self._fault


def run(*steps: tuple[str, str], fault: Exception | None = None) -> list[str]:
    """Takes data paths away one after the other; returns what was let go of, and how."""
    log: list[str] = []

    async def main() -> None:
        handover = Handover()
        for step, name in steps:
            if step == "carries":
                handover.is_taken_over("flannel0")
                continue
            handover.is_due = step == "moves"
            actuator = cast(Actuator, cast(Any, Recorder(log, name, fault)))
            await handover.take_away("flannel0", actuator)
        await handover.end()

    asyncio.run(main())
    return log


def test_a_move_hands_over_and_a_stop_ends() -> None:
    moved = ("moves", "1"), ("carries", "2"), ("stops", "2")
    assert run(*moved) == ["1 hands over", "2 ends"]


def test_a_stop_before_the_next_one_carries_ends_what_was_left_too() -> None:
    assert run(("moves", "1"), ("stops", "2")) == ["1 hands over", "2 ends", "1 ends"]
    assert run(("moves", "1")) == ["1 hands over", "1 ends"]


def test_moves_in_a_row_remember_who_has_carried() -> None:
    steps = ("moves", "1"), ("moves", "2"), ("moves", "3"), ("stops", "4")
    assert run(*steps)[-2:] == ["4 ends", "1 ends"]
    assert run(*steps[:3])[-1] == "1 ends"


def test_what_cannot_be_taken_away_is_told_and_keeps_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert run(("moves", "1"), fault=HostError("nft fails")) == ["1 hands over", "1 ends"]
    assert "could not be taken away" in caplog.text
