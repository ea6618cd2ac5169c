"""Reads the options anew when asked to (SIGHUP), and puts those in force that may change live.

These are the log's form and level, and what the files of trust hold. Any other change is named in
the log, and waits for a start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import fields

from tunneld import log
from tunneld.config import RunOptions
from tunneld.errors import UsageError
from tunneld.host.notify import Notifier

LIVE = frozenset({"log_format", "log_level"})

_log = logging.getLogger("tunneld.daemon")


class Reloader:
    """Waits for requests to read the options anew."""

    def __init__(
        self,
        options: RunOptions,
        read: Callable[[], RunOptions],
        notifier: Notifier,
        *,
        is_ready: Callable[[], bool],
        also: Callable[[], None],
    ) -> None:
        """`also` reads again what options name."""
        self._started_with = options
        self._read = read
        self._notifier = notifier
        self._is_ready = is_ready
        """Before READY the service manager must not hear of a reload, which ends with READY."""
        self._also = also
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Asks for the options to be read; several before that happens count as one."""
        self._requested.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            was_ready = self._is_ready()
            if was_ready:
                self._notifier.reloading()
            await self._reload()
            self._also()
            if was_ready:
                self._notifier.ready()

    async def _reload(self) -> None:
        try:
            found = await asyncio.to_thread(self._read)
        except UsageError as error:
            _log.error(
                "the options are not usable; those in force stay",
                extra={"fields": {"error": str(error)}},
            )
            return
        log.setup(found.log_level, found.log_format)
        waiting = [
            field.name.replace("_", "-")
            for field in fields(RunOptions)
            if field.name not in LIVE
            and getattr(found, field.name) != getattr(self._started_with, field.name)
        ]
        _log.info("the options have been read anew")
        if waiting:
            _log.warning(
                "changed options wait for tunneld to be started again",
                extra={"fields": {"option": waiting}},
            )
