"""Which starts of encryption were this state directory's: by that a copy of it is known.

Beside the path of a lease: the record of this node -> **`daemon.instances`** -> `daemon.term`.
Each start has an instance of its own, which is written down before anybody hears of it. A record
under the own node id and key with one that is not among them was written with a copy of this
directory.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from tunneld.host.state_dir import StateDir
from tunneld.lease.model import NodeRecord, RecordEncryption

NAME: Final = "instances"
FORMAT: Final = 1
BYTES: Final = 8

KEPT: Final = 256
"""The last ones."""


class Instances:
    """Those of one state directory."""

    def __init__(
        self, state_dir: StateDir, draw: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._state_dir = state_dir
        self._draw = draw
        self._used = _read(state_dir.load(NAME))

    def new(self) -> bytes:
        """Returns another one, which is written down."""
        made = self._draw(BYTES)
        self._used = [*(self._used or []), made.hex()][-KEPT:]
        self._state_dir.save(NAME, {"Format": FORMAT, "Used": self._used})
        return made

    def is_of_a_copy(self, record: NodeRecord | None, key: str) -> bool:
        """Returns whether a record of this node's id was written by a host with a copy.

        Args:
            record: what the store has; None: nothing.
            key: this node's public key, in base64. One with another is no copy any more.
        """
        said = None if record is None else record.encryption
        if not isinstance(said, RecordEncryption) or said.key != key or self._used is None:
            return False
        return said.instance not in self._used


def _read(document: object) -> list[str] | None:
    """Returns what was written down; None where nothing can be told by it."""
    used = document.get("Used") if isinstance(document, dict) else None
    if not isinstance(used, list):
        return None
    return [one for one in used if isinstance(one, str)]
