"""The raw figures as a file in bench/results: everything that was seen, nothing worked out."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parents[1] / "results"


def place(began: datetime, what: str) -> Path:
    """Returns the file of a measurement."""
    return RESULTS / f"{began:%Y-%m-%dT%H%MZ}-{what}.json"


def write(path: Path, document: dict[str, Any]) -> None:
    """Writes the file as a whole, a sample a line, so that a run cut short leaves what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {name: value for name, value in document.items() if name != "samples"}
    samples = ",\n  ".join(json.dumps(sample) for sample in document["samples"])
    text = json.dumps(head, indent=1).removesuffix("\n}")
    new = path.with_suffix(".new")
    new.write_text(f'{text},\n "samples": [\n  {samples}\n ]\n}}\n')
    os.replace(new, path)


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
