"""Opens the store for the length of a command."""

from __future__ import annotations

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
    store = open_store(options)
    try:
        yield store
    finally:
        await store.close()
