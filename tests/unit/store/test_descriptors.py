"""A connection attempt that is given up closes its descriptor once: its number may be another's."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvloop


def test_connection_attempt_that_is_given_up_leaves_no_number_to_be_closed_again() -> None:
    """Of uvloop 0.22 and older one did, and the next owner of the number lost it."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            opened = socket.create_connection(server.getsockname())
            making = asyncio.ensure_future(
                loop.create_connection(asyncio.Protocol, sock=opened, ssl=None)
            )
            await asyncio.sleep(0)
            making.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await making
            return opened.fileno()

    assert uvloop.run(main()) == -1
