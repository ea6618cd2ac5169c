"""Looks where no event tells: each second at what costs nothing, each minute at everything.

Path of a lease: **`daemon.rounds`** -> `daemon.reconcile` -> `host`. It decides nothing: whoever is
woken compares the whole. An event may be missed, be of a kind that nobody thought of, or not exist
at all, as for a file that is deleted or a setting of the TUN device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from tunneld.errors import EngineError

LOOK_S: Final = 1.0
"""How often the device's own settings and the file's time stamps are read."""

COMPARISON_S: Final = 60.0
"""How often everything is compared, whether or not anything seems to have changed."""

_log = logging.getLogger("tunneld.daemon")


class Looked(Protocol):
    """What is looked at: `host.actuator`."""

    async def differs(self) -> bool:
        """Says whether something is certainly not as it was put. Cheap."""
        ...

    def look_again(self) -> None:
        """Has everybody look at everything, as if every event had come."""
        ...

    def device_features(self) -> bytes:
        """Returns what the TUN device is set to do for the kernel; empty: unknown, or no device."""
        ...

    def tell_put_back(self, done: str) -> None:
        """Says what somebody has done to the TUN device, now that it is undone."""
        ...


class Offloading(Protocol):
    """Whose offloads the TUN device has: `engine`."""

    def offloads(self) -> Mapping[str, str]:
        """Returns how each offload stands."""
        ...

    def set_offload(self, name: str, *, enabled: bool) -> None:
        """Switches one on or off, and tells the device."""
        ...


class Rounds:
    """Wakes the reconciler when something is not as it was put."""

    def __init__(
        self, host: Looked, *, engine: Offloading | None, wake: Callable[[], None]
    ) -> None:
        self._host = host
        self._engine = engine
        self._wake = wake
        self._features = host.device_features()

    async def run(self) -> None:
        """Works until cancelled."""
        loop = asyncio.get_running_loop()
        compared_s = loop.time()
        while True:
            await asyncio.sleep(LOOK_S)
            if await self._host.differs():
                self._wake()
            self._keep_features()
            if loop.time() - compared_s >= COMPARISON_S:
                compared_s = loop.time()
                self._host.look_again()

    def _keep_features(self) -> None:
        """Gives the device the engine's offloads again when it has others."""
        found = self._host.device_features()
        if self._engine is None or found == self._features:
            return
        try:
            for name, state in self._engine.offloads().items():
                if name.startswith("tun_") and state in ("on", "off"):
                    self._engine.set_offload(name, enabled=state == "on")
        except EngineError as error:
            _log.warning(
                "cannot give the overlay device its offloads again",
                extra={"fields": {"error": str(error)}},
            )
        self._features = self._host.device_features()
        if self._features != found:
            self._host.tell_put_back("its offloads")
