"""The sites of this folder's tests.

`TUNNELD_DOCKER_MATRIX=full` runs all combinations of Docker, way, firewall, masquerader and number
of hosts: thirty-two. Without it there are four, in which every two values of the first three meet.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from testbed.docker import RELEASES, image, programs
from testbed.netns import Rig
from tests.docker.site import Kind, Masquerader, Rules, Site, Way
from tests.support.figures import figures_of

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
            version = site.hosts[0].docker.version
            figures_of(request.config, "docker").append({"site": str(kind), "docker": version})
            yield site
        finally:
            site.close()
