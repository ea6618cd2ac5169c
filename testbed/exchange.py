"""Traffic between two places: starts the sides of `traffic.py`, and reads what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from testbed.netns import Place
from testbed.process import Process

_TRAFFIC: Final = Path(__file__).with_name("traffic.py")
_STREAM_PORT: Final = 7001


def start_traffic(space: Place, mode: str, *argv: object) -> Process:
    """Starts one side of `traffic.py` in `space`; its JSON lines are the process's output."""
    return space.start(
        *(sys.executable, "-I", "-S", str(_TRAFFIC), mode, *map(str, argv)),
        log=space.directory / f"{mode}-{len(space.processes)}.log",
    )


def json_lines(process: Process) -> list[dict[str, Any]]:
    """Returns the complete lines a traffic program has written so far."""
    complete, _, _ = process.output().rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def send_stream(
    source: Place, target: Place, address: object, size_bytes: int, *, seed: int = 1
) -> float:
    """Sends a TCP stream, which arrives unchanged; returns its rate in Mbit/s."""
    receiver = start_traffic(target, "receive-stream", _STREAM_PORT)
    receiver.wait_for_output("listening")
    sender = start_traffic(source, "send-stream", address, _STREAM_PORT, size_bytes, seed)
    assert sender.wait(240.0) == 0, sender.output()
    assert receiver.wait(60.0) == 0, receiver.output()
    sent, received = json_lines(sender)[-1], json_lines(receiver)[-1]
    assert (received["bytes"], received["sha256"]) == (size_bytes, sent["sha256"])
    seconds: float = received["seconds"]
    return size_bytes * 8 / seconds / 1e6
