"""The directory for what is fetched or built once on a machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Returns the directory that outlives a checkout, made if it was missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "tunneld"
    path.mkdir(parents=True, exist_ok=True)
    return path
