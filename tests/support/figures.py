"""Measured values of a test run: printed at its end, and kept in build/<folder of the tests>."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FIGURES = pytest.StashKey[dict[str, list[dict[str, object]]]]()


def figures_of(config: pytest.Config, folder: str) -> list[dict[str, object]]:
    return config.stash.setdefault(FIGURES, {}).setdefault(folder, [])


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    """Takes measured values of the test's folder."""
    return figures_of(request.config, request.path.relative_to(TESTS).parts[0])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for folder, figures in config.stash.get(FIGURES, {}).items():
        if not figures:
            continue
        path = TESTS.parent / "build" / folder / "figures.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=1) + "\n")
        terminalreporter.section(f"{folder} figures")
        for figure in figures:
            terminalreporter.line("  ".join(f"{name}={value}" for name, value in figure.items()))
