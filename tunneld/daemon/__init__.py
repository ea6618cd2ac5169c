"""The daemon: wires the rooms of the lease path together and lives until it is asked to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop

from tunneld.config import RunOptions
from tunneld.daemon.node import Node
from tunneld.daemon.threads import made_at_once
from tunneld.errors import TunneldError
from tunneld.host.memory import give_back_what_is_free


def run(options: RunOptions, read_options: Callable[[], RunOptions]) -> int:
    """Runs the daemon until SIGTERM, SIGINT or `tunneld leave`; returns the exit status.

    SIGHUP has the options read anew by `read_options`.

    Raises:
        TunneldError: the daemon cannot run on this host, with these options or this network.
    """
    give_back_what_is_free()
    done: list[int | TunneldError] = []

    async def serve() -> None:
        try:
            done.append(await _serve(options, read_options))
        except TunneldError as error:
            done.append(error)

    try:
        # Not uvloop.install(): netlink lives on a plain loop in a thread of its own.
        uvloop.run(serve())
    except RuntimeError:
        # uvloop ends the pool by a thread, which the kernel may not give; all else is done by then.
        if not done:
            raise
    (outcome,) = done
    if isinstance(outcome, TunneldError):
        raise outcome
    return outcome


async def _serve(options: RunOptions, read_options: Callable[[], RunOptions]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(made_at_once())
    node = Node(options, read_options)
    loop.add_signal_handler(signal.SIGHUP, node.reload)
    work = asyncio.create_task(node.run(), name="node")
    asked: set[int] = set()

    def stop(number: int) -> None:
        if not asked:  # a second signal must not cut the clean-up short
            work.cancel()
        asked.add(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    try:
        await work
    except asyncio.CancelledError:
        if not asked:
            raise
    return 0
