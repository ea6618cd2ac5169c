"""The sites of this folder's tests, and what they leave behind: versions and figures.

`TUNNELD_DOCKER_MATRIX=full` runs all combinations of Docker, way, firewall, masquerader and number
of hosts: thirty-two. Without it there are four, in which every two values of the first three meet.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.site import Kind, Masquerader, Rules, Site, Way
from tests.support.docker import RELEASES, image, programs
from tests.support.netns import Rig

ROOT = Path(__file__).resolve().parents[2]
FIGURES = pytest.StashKey[list[dict[str, object]]]()
VERSIONS = pytest.StashKey[dict[str, str]]()

WAYS: tuple[Way, ...] = ("bip", "network")
RULES: tuple[Rules, ...] = ("nft", "legacy")
MASQUERADERS: tuple[Masquerader, ...] = ("tunneld", "docker")

if os.environ.get("TUNNELD_DOCKER_MATRIX") == "full":
    KINDS = [
        Kind(*parts) for parts in itertools.product(RELEASES, WAYS, RULES, MASQUERADERS, (2, 3))
    ]
else:
    KINDS = [
        Kind("bookworm", "bip", "nft", "tunneld", 3),
        Kind("bookworm", "network", "legacy", "docker", 2),
        Kind("sid", "bip", "legacy", "docker", 2),
        Kind("sid", "network", "nft", "tunneld", 3),
    ]


@pytest.fixture(scope="session")
def docker_programs(root_tools: None) -> None:
    """Fetches both Dockers, so that no test's time has the download in it."""
    for release in RELEASES:
        programs(release)
    image()


@pytest.fixture(scope="package", params=KINDS, ids=str)
def site(
    request: pytest.FixtureRequest,
    docker_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Hosts whose containers reach each other; a test leaves it so."""
    kind: Kind = request.param
    with Rig("docker", tmp_path_factory.mktemp(str(kind))) as rig:
        site = Site(rig, kind)
        try:
            site.set_up()
            versions = request.config.stash.setdefault(VERSIONS, {})
            versions[str(kind)] = site.hosts[0].docker.version
            yield site
        finally:
            site.close()


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    """Takes measured values; they are printed after the run and kept in build/docker."""
    return request.config.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    versions, figures = config.stash.get(VERSIONS, {}), config.stash.get(FIGURES, [])
    if not versions:
        return
    terminalreporter.section("docker")
    for kind, version in versions.items():
        terminalreporter.line(f"{kind}: Docker {version}")
    for figure in figures:
        terminalreporter.line("  ".join(f"{name}={value}" for name, value in figure.items()))
    path = ROOT / "build" / "docker" / "figures.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"docker": versions, "figures": figures}, indent=1) + "\n")
