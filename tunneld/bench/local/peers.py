"""Other programs that encrypt, as far as they are installed: from Debian, or from a path given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunneld.bench.local.overlay import Overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program that is there."""

    name: str
    kind: type[Overlay]
    program: Path

    def overlay(self, directory: Path) -> Overlay:
        return self.kind(directory, (str(self.program),))
