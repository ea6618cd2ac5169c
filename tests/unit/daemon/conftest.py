"""The host of the tests of what must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.daemon.node import MakeNode, Node


@pytest.fixture
def node(tmp_path: Path) -> MakeNode:
    def make(*args: Any, **options: Any) -> Node:
        return Node(tmp_path, *args, **options)

    return make
