"""Opens the store for the length of a command."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tunneld.errors import StoreError
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions, open_store

_MAGIC: Final = b"SQLite format 3\0"
"""How every SQLite database begins. Source: https://www.sqlite.org/fileformat.html, 1.3.1."""


@asynccontextmanager
async def opened(options: StoreOptions, *, is_new: bool = False) -> AsyncIterator[Store]:
    """Yields the store and closes it. Only where it may be `is_new` is a missing file made.

    Raises:
        UsageError: the options do not fit together.
        StoreError: there is no such file, or it is no database.
    """
    if options.path is not None and not (is_new or options.path.exists()):
        raise StoreError(
            f"there is no store {options.path}; expected the file that the daemons of this machine "
            "share: check the path in --store, or make it with 'tunneld network set FILE'"
        )
    if options.path is not None:
        _require_database(options.path, is_new=is_new)
    # A command ends with what went wrong; what the log says on the way is the daemon's.
    log, unheard = logging.getLogger("tunneld"), logging.NullHandler()
    store = open_store(options)
    log.addHandler(unheard)
    try:
        yield store
    finally:
        await store.close()
        log.removeHandler(unheard)


def _require_database(path: Path, *, is_new: bool) -> None:
    """Refuses a file of another kind: opening it as a store would change its mode or fill it.

    Raises:
        StoreError: the path is no file, or the file does not begin as a database does.
    """
    try:
        found = _head(path) if path.is_file() else None
    except OSError:
        return  # the store names what forbids it
    may_be_empty = is_new and (found == b"" or not path.exists())
    if found != _MAGIC and not may_be_empty:
        raise StoreError(
            f"{path} is no store; expected the SQLite file that the daemons of this machine share: "
            "check the path in --store"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_MAGIC))
