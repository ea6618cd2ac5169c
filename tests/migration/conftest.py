"""The network of this folder, and the figures it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.migration.conversation import Conversation
from tests.migration.moves import FlannelNetwork
from tests.support.netns import Rig

FIGURES = pytest.StashKey[list[dict[str, object]]]()


@pytest.fixture(scope="module")
def flannel(
    root_tools: None, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlannelNetwork]:
    """A live network of three flanneld hosts."""
    with Rig("move", tmp_path_factory.mktemp("move")) as rig:
        network = FlannelNetwork(rig, installed)
        try:
            network.start()
            yield network
        finally:
            network.net.shut_down()


@pytest.fixture(scope="module")
def conversation(flannel: FlannelNetwork) -> Iterator[Conversation]:
    """A connection opened while all hosts ran flanneld; both its ends are moved."""
    first, second, _ = flannel.hosts
    with closing(Conversation(first, second)) as opened:
        assert opened.answer("opened") == "opened"
        yield opened


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    """Takes measured values; they are printed after the run and kept in build/migration."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    figures = config.stash.get(FIGURES, [])
    if not figures:
        return
    path = Path(__file__).resolve().parents[2] / "build" / "migration" / "figures.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    terminalreporter.section("migration figures")
    for figure in figures:
        terminalreporter.line("  ".join(f"{name}={value}" for name, value in figure.items()))
