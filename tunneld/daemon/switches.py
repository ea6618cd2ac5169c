"""What an operator has switched of the data path's offloads: kept for each data path that follows.

Path of a request: `control.server` -> **`daemon.switches`** -> `engine`. It ends with the daemon.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from tunneld.errors import ControlError, EngineError

_log = logging.getLogger("tunneld.daemon")


class Switchable(Protocol):
    """What has offloads: an engine."""

    def set_offload(self, name: str, *, enabled: bool) -> None:
        """Switches one; EngineError where there is none of that name, or it is not supported."""

    def offloads(self) -> Mapping[str, str]:
        """Returns how each stands."""


class Switches:
    """The offloads that somebody has switched, and how."""

    def __init__(self) -> None:
        self._chosen: dict[str, bool] = {}

    def switch(self, engine: Switchable | None, request: Mapping[str, Any]) -> dict[str, str]:
        """Switches the offload `name` of a request on or off, by its `enabled`.

        Returns:
            How each offload stands then.

        Raises:
            ControlError: the request names none, or no data path of the user space runs.
            EngineError: there is no such offload, or it is not supported here.
        """
        name, enabled = request.get("name"), request.get("enabled")
        if not isinstance(name, str) or not isinstance(enabled, bool):
            raise ControlError(
                "the request does not say what to switch; expected 'name', a text, and 'enabled',"
                " true or false"
            )
        if engine is None:
            raise ControlError(
                "no offload can be switched: packets do not pass through tunneld's own data path"
                " now; see 'tunneld status'"
            )
        engine.set_offload(name, enabled=enabled)
        self._chosen[name] = enabled
        _log.info(
            "offload switched by an operator",
            extra={"fields": {"option": name, "detail": "on" if enabled else "off"}},
        )
        return dict(engine.offloads())

    def renew(self, engine: Switchable) -> None:
        """Switches those of a new data path as those of the one before."""
        for name, enabled in self._chosen.items():
            try:
                engine.set_offload(name, enabled=enabled)
            except EngineError as error:
                facts = {"option": name, "error": str(error)}
                _log.warning("an offload is no longer as switched", extra={"fields": facts})
