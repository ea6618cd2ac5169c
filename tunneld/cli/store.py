"""Opens the store for the length of a command."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tunneld.lease.registry import Store
from tunneld.store import StoreOptions, open_store


@asynccontextmanager
async def opened(options: StoreOptions) -> AsyncIterator[Store]:
    """Yields the store and closes it.

    Raises:
        UsageError: the options do not fit together.
    """
    # A command ends with what went wrong; what the log says on the way is the daemon's.
    log, unheard = logging.getLogger("tunneld"), logging.NullHandler()
    store = open_store(options)
    log.addHandler(unheard)
    try:
        yield store
    finally:
        await store.close()
        log.removeHandler(unheard)
