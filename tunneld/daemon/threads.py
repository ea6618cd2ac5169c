"""The threads that wait for what blocks: files, and whatever else `asyncio.to_thread` is given.

asyncio makes its own one by one when there is work for them, and raises RuntimeError, which no room
expects, where the kernel gives no more. These are all made at the start: what has begun to run
needs no further one.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tunneld.errors import NoThreadError

COUNT: Final = 6
"""So many may hang, on a disk that does not answer, before others wait."""


def made_at_once(count: int = COUNT) -> ThreadPoolExecutor:
    """Returns a pool whose threads all run.

    Raises:
        NoThreadError: the kernel does not give as many; none is left behind.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="blocking")
    everybody = threading.Barrier(count)
    try:
        for _ in range(count):
            # A thread that waits here is not idle, so that the next call needs another.
            pool.submit(everybody.wait)
    except RuntimeError as error:
        everybody.abort()
        pool.shutdown()
        raise NoThreadError("wait for files") from error
    return pool
