"""Keeps what was measured: one JSON file and one page in a directory, replaced as a whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tunneld.bench.document import require_document
from tunneld.bench.page import page
from tunneld.errors import BenchError

RAW_NAME: Final = "bench.json"
PAGE_NAME: Final = "index.html"


class Keeper:
    """Writes documents into a directory; without one it writes nothing."""

    def __init__(self, directory: Path | None) -> None:
        """Makes the directory.

        Raises:
            BenchError: it cannot be made.
        """
        self._directory = directory
        if directory is not None:
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BenchError(_refused(directory, error)) from error

    def keep(self, document: Mapping[str, Any]) -> None:
        """Puts a document and its page in the place of the former ones.

        Raises:
            BenchError: they cannot be written; the former ones are still there.
        """
        if self._directory is None:
            return
        _replace(self._directory / RAW_NAME, as_json(document))
        _replace(self._directory / PAGE_NAME, page(document, RAW_NAME))


def as_json(document: Mapping[str, Any]) -> str:
    """Returns a document as it is kept."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def read(path: Path) -> dict[str, Any]:
    """Returns a document from a file.

    Raises:
        BenchError: it is not there, or none.
    """
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        msg = f"{path}: {error.strerror}; expected what `tunneld bench … --json` prints"
        raise BenchError(msg) from error
    except ValueError as error:
        msg = f"{path}: no JSON ({error}); expected what `tunneld bench … --json` prints"
        raise BenchError(msg) from error
    return require_document(value, str(path))


def _replace(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            scratch.write_text(text)
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BenchError(_refused(path, error)) from error


def _refused(path: Path, error: OSError) -> str:
    return f"bench: cannot write {path}: {error.strerror}; expected room and the right to write"
