"""Opens the store for the length of a command."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tunneld.errors import StoreError
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions, open_store


@asynccontextmanager
async def opened(options: StoreOptions, *, is_new: bool = False) -> AsyncIterator[Store]:
    """Yields the store and closes it. Only where it may be `is_new` is a missing file made.

    Raises:
        UsageError: the options do not fit together.
        StoreError: there is no such file.
    """
    if options.path is not None and not (is_new or options.path.exists()):
        raise StoreError(
            f"there is no store {options.path}; expected the file that the daemons of this machine "
            "share: check the path in --store, or make it with 'tunneld network set FILE'"
        )
    # A command ends with what went wrong; what the log says on the way is the daemon's.
    log, unheard = logging.getLogger("tunneld"), logging.NullHandler()
    store = open_store(options)
    log.addHandler(unheard)
    try:
        yield store
    finally:
        await store.close()
        log.removeHandler(unheard)
