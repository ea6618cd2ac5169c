"""The host of the tests of what must be."""

from __future__ import annotations

import pytest

from tests.unit.daemon.node import MakeNode, Node


@pytest.fixture
def node() -> MakeNode:
    return Node
