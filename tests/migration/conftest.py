"""The network of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from testbed.moves import FlannelNetwork
from testbed.netns import Rig
from tests.migration.conversation import Conversation


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
