"""The tree as the repo tests see it: its files, and what each Python module imports."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = (ROOT / "tunneld/store/proto",)
_NOT_OURS = {".git", ".venv", ".hypothesis", "target", "dist", "build", "__pycache__"}


@cache
def files(*suffixes: str, under: str = "") -> tuple[Path, ...]:
    """Returns the files of the tree with these suffixes (all when none is given), sorted."""
    return tuple(sorted(_walk(ROOT / under, suffixes)))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in _NOT_OURS and not (name.startswith(".") and name.endswith("_cache"))
        ]
        for name in set(names) - _NOT_OURS:  # `.git` is a file in a linked worktree
            path = Path(parent, name)
            if (not suffixes or path.suffix in suffixes) and not _is_generated(path):
                yield path


def _is_generated(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in GENERATED)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    """Returns `tunneld.lease.model` for tunneld/lease/model.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> frozenset[str]:
    """Returns the dotted names of all modules a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            base = node.module or ""
            # `from tunneld.lab import build` names a module, `from x import Name` does not.
            for alias in node.names:
                dotted = f"{base}.{alias.name}"
                found.add(dotted if _is_module(dotted) else base)
    return frozenset(found)


@cache
def _is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return place.is_dir() or any(place.with_suffix(s).exists() for s in (".py", ".pyi"))
